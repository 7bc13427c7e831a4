from django.urls import path

from leaderboard import views

urlpatterns = [
    path("api/v1/scores/leaderboard", views.LeaderboardView.as_view()),
    path("", views.board_page, name="board"),
]
