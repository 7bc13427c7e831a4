from django.urls import path

from leaderboard import pages, views

urlpatterns = [
    path("api/v1/scores/leaderboard", views.LeaderboardView.as_view()),
    path("api/v1/scores/around-me", views.AroundMeView.as_view()),
    path("", pages.board_page, name="board"),
    path("embed/", pages.embed_page, name="embed"),
]
