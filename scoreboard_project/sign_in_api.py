"""`/auth/token`, `/auth/token/refresh`, `/auth/token/revoke`."""

from django.contrib.auth import aauthenticate
from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request

from scoreboard_project import sign_in
from scoreboard_project.api import ApiView, Body, Text, success
from scoreboard_project.db import off_loop
from scoreboard_project.errors import RateLimited, Unauthorized


class Credentials(Body):
    username = Text(max_length=150)
    password = Text(max_length=sign_in.LONGEST_PASSWORD)


class RefreshBody(Body):
    refresh = Text(max_length=sign_in.LONGEST_TOKEN)


class TokenPair(serializers.Serializer):
    access = serializers.CharField(help_text="Lives 15 minutes.")
    refresh = serializers.CharField(help_text="Lives 1 day, is used once.")


class TokenView(ApiView):
    """Sign in. 5 failures in 15 minutes for a name and address, or 30 for an address, are answered with 429."""

    authentication_classes = []

    @extend_schema(request=Credentials, responses=TokenPair, operation_id="signIn", auth=[])
    async def post(self, request: Request) -> HttpResponse:
        http_request = request._request
        player = await aauthenticate(http_request, **self.read(Credentials))
        if player is None:
            if wait := getattr(http_request, "sign_in_wait", None):
                raise RateLimited("Too many failed tries.", retry_after=wait)
            raise Unauthorized("The name or the password is wrong.")
        return success(await off_loop(sign_in.begin, player))


class RefreshView(ApiView):
    """Exchange a refresh token. It is refused from then on; using it again ends the sign-in."""

    authentication_classes = []

    @extend_schema(request=RefreshBody, responses=TokenPair, operation_id="refreshToken", auth=[])
    async def post(self, request: Request) -> HttpResponse:
        return success(await off_loop(sign_in.refresh, self.read(RefreshBody)["refresh"]))


class RevokeView(ApiView):
    """End the sign-in that a refresh token belongs to."""

    authentication_classes = []

    @extend_schema(request=RefreshBody, responses=OpenApiTypes.OBJECT, operation_id="revokeToken", auth=[])
    async def post(self, request: Request) -> HttpResponse:
        await off_loop(sign_in.revoke, self.read(RefreshBody)["refresh"])
        return success({})
