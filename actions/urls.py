from django.urls import path

from actions import play, player_page, views

urlpatterns = [
    path("api/v1/actions/start", views.StartView.as_view()),
    path("api/v1/actions/complete", views.CompleteView.as_view()),
    path("api/v1/scores/update", views.UpdateView.as_view()),
    path("play/", play.PlayPage.as_view(), name="play"),
    path("play/token", play.play_token),
    path("players/<str:username>/", player_page.player_page, name="player"),
]
