from django.urls import path

from actions import views

urlpatterns = [
    path("api/v1/actions/complete", views.CompleteView.as_view()),
    path("api/v1/scores/update", views.UpdateView.as_view()),
    path("play/", views.PlayPage.as_view(), name="play"),
    path("play/token", views.play_token),
]
