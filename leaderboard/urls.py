from django.urls import path

from leaderboard import accounts, pages, views

urlpatterns = [
    path("api/v1/scores/leaderboard", views.LeaderboardView.as_view()),
    path("api/v1/scores/around-me", views.AroundMeView.as_view()),
    path("", pages.board_page, name="board"),
    path("sign-up/", accounts.SignUpPage.as_view(), name="sign-up"),
    path("account/", accounts.AccountPage.as_view(), name="account"),
    path("account/password/", accounts.PasswordPage.as_view(), name="password"),
    path("embed/", pages.embed_page, name="embed"),
]
