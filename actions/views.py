"""The wire of earning points: `/actions/start`, `/actions/complete` and `/scores/update`."""

from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.core.validators import validate_slug
from django.http import HttpResponse
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request

from actions import quiz, server_keys
from actions.completion import Completion, complete
from actions.redemption import Redemption, redeem
from scoreboard_project import request_id
from scoreboard_project.api import ApiView, Body, Text, success
from scoreboard_project.db import off_loop
from scoreboard_project.request_id import client_address
from scoreboard_project.sign_in import BearerAuthentication
from scoreboard_project.timestamps import timestamp

BEARER: list[Any] = [{"bearer": []}]  # for the schema
BEARER_OR_KEY: list[Any] = [*BEARER, {"serverKey": []}]


@dataclass(frozen=True, slots=True)
class GameServer:
    """Who sent `Authorization: Api-Key …`; whether the key is good is PostgreSQL's to say."""

    key: str
    is_authenticated = True


class BearerOrServerKey(BearerAuthentication):
    def authenticate(self, request: Any) -> Any:
        scheme, _, key = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
        return (GameServer(key), None) if scheme.lower() == "api-key" else super().authenticate(request)


class ServerKeyInSchema(OpenApiAuthenticationExtension):
    target_class = BearerOrServerKey
    name = "serverKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        description = "`Api-Key sbk_…`: a game server's key, made by staff."
        return {"type": "apiKey", "in": "header", "name": "Authorization", "description": description}


class StartBody(Body):
    actionType = Text(max_length=64, validators=[validate_slug])


class AskedQuestion(serializers.Serializer):
    id = serializers.IntegerField()
    text = serializers.CharField()
    choices = serializers.ListField(child=serializers.CharField())


class StartAnswer(serializers.Serializer):
    attemptId = serializers.UUIDField()
    questions = AskedQuestion(many=True)
    expiresAt = serializers.DateTimeField()


class CompleteBody(StartBody):
    actionData = serializers.DictField(required=False, default=dict)
    clientTimestamp = serializers.DateTimeField(required=False, default=None, allow_null=True)


class CompleteByServerBody(CompleteBody):
    playerId = serializers.UUIDField()


class CompleteAnswer(serializers.Serializer):
    scoreToken = serializers.CharField()
    pointsEarned = serializers.IntegerField()
    tokenExpiresAt = serializers.DateTimeField()
    actionId = serializers.UUIDField()


class UpdateBody(Body):
    actionId = Text(max_length=36)


class UpdateAnswer(serializers.Serializer):
    userId = serializers.UUIDField()
    previousScore = serializers.IntegerField()
    pointsAwarded = serializers.IntegerField()
    newScore = serializers.IntegerField()
    newRank = serializers.IntegerField(allow_null=True)
    timestamp = serializers.DateTimeField()


class StartView(ApiView):
    """Begin an action that the server asks questions about. Until it is answered, starting again gives the same questions."""

    needs_player = True
    invalid_code = "INVALID_ACTION_DATA"

    @extend_schema(request=StartBody, responses=StartAnswer, operation_id="startAction", auth=BEARER)
    async def post(self, request: Request) -> HttpResponse:
        attempt = await off_loop(quiz.start, self.read(StartBody)["actionType"], self.player_id)
        return success(
            {
                "attemptId": str(attempt.id),
                "questions": quiz.asked(attempt),
                "expiresAt": timestamp(attempt.expires_at),
            }
        )


class CompleteView(ApiView):
    """Complete an action. The server verifies it, decides what it is worth, and answers with a score token, good for a minute.

    A game server (`Authorization: Api-Key …`) completes `trusted` actions for the player it names in `playerId`, and hands the
    token on to them.
    """

    needs_player = True
    invalid_code = "INVALID_ACTION_DATA"
    authentication_classes = [BearerOrServerKey]

    @extend_schema(request=CompleteByServerBody, responses=CompleteAnswer, operation_id="completeAction", auth=BEARER_OR_KEY)
    async def post(self, request: Request) -> HttpResponse:
        asking: Any = self.caller
        if isinstance(asking, GameServer):
            server_key = await off_loop(server_keys.holder, asking.key)
            body = self.read(CompleteByServerBody)
        else:
            server_key, body = None, self.read(CompleteBody)
        issued = await complete(
            Completion(
                player_id=body["playerId"] if server_key else self.player_id,
                action_type=body["actionType"],
                data=body["actionData"],
                client_timestamp=body["clientTimestamp"],
                request_id=request_id.current.get(),
                server_key=server_key,
            )
        )
        return success(issued.wire())


class UpdateView(ApiView):
    """Redeem a score token. 200 means committed; 409 says what the first redemption awarded."""

    needs_player = True
    invalid_code = "INVALID_TOKEN"

    @extend_schema(
        request=UpdateBody,
        responses=UpdateAnswer,
        operation_id="redeemScoreToken",
        auth=BEARER,
        parameters=[OpenApiParameter("X-Score-Token", str, OpenApiParameter.HEADER, required=True)],
    )
    async def post(self, request: Request) -> HttpResponse:
        redemption = await redeem(
            token=request.META.get("HTTP_X_SCORE_TOKEN", ""),
            action_id=self.read(UpdateBody)["actionId"],
            player_id=self.player_id,
            request_id=request_id.current.get(),
            address=client_address(request._request.scope, settings.TRUSTED_PROXY_HOPS),  # type: ignore[attr-defined]
        )
        return success(_redeemed(redemption))


def _redeemed(redemption: Redemption) -> dict[str, Any]:
    return {
        "userId": str(redemption.player_id),
        "previousScore": redemption.previous_score,
        "pointsAwarded": redemption.points,
        "newScore": redemption.new_score,
        "newRank": redemption.rank,
        "timestamp": timestamp(redemption.at),
    }
