"""The wire of earning points: `/actions/complete`, `/scores/update`, and the page that plays them."""

import uuid
from typing import Any

from asgiref.sync import async_to_sync
from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.core.validators import validate_slug
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.decorators import method_decorator
from django.utils.translation import gettext as _
from django.views import View
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request

from actions.completion import ActionNotAllowed, Completion, complete
from actions.models import ActionType
from actions.redemption import Redemption, redeem, timestamp
from scoreboard_project import request_id, sign_in
from scoreboard_project.api import ApiView, Body, Text, refused, success
from scoreboard_project.errors import Refusal, Unauthorized
from scoreboard_project.request_id import client_address

BEARER: list[Any] = [{"bearer": []}]  # for the schema


class CompleteBody(Body):
    actionType = Text(max_length=64, validators=[validate_slug])
    actionData = serializers.DictField(required=False, default=dict)
    clientTimestamp = serializers.DateTimeField(required=False, default=None, allow_null=True)


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


class CompleteView(ApiView):
    """Complete an action. The server decides what it is worth and answers with a score token, good for a minute."""

    needs_player = True
    invalid_code = "INVALID_ACTION_DATA"

    @extend_schema(request=CompleteBody, responses=CompleteAnswer, operation_id="completeAction", auth=BEARER)
    async def post(self, request: Request) -> HttpResponse:
        body = self.read(CompleteBody)
        issued = await complete(
            Completion(
                player_id=self.player_id,
                action_type=body["actionType"],
                data=body["actionData"],
                client_timestamp=body["clientTimestamp"],
                request_id=request_id.current.get(),
            )
        )
        return success(
            {
                "scoreToken": issued.score_token,
                "pointsEarned": issued.points,
                "tokenExpiresAt": timestamp(issued.expires_at),
                "actionId": str(issued.action_id),
            }
        )


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
            address=_address(request._request),
        )
        return success(_redeemed(redemption))


def _address(request: Any) -> str:
    return client_address(request.scope, settings.TRUSTED_PROXY_HOPS)


def _redeemed(redemption: Redemption) -> dict[str, Any]:
    return {
        "userId": str(redemption.player_id),
        "previousScore": redemption.previous_score,
        "pointsAwarded": redemption.points,
        "newScore": redemption.new_score,
        "newRank": redemption.rank,
        "timestamp": timestamp(redemption.at),
    }


@method_decorator([login_required, never_cache], name="dispatch")
class PlayPage(View):
    """Complete an action and redeem its token: through the public API with JavaScript, as a plain form without."""

    def get(self, request: HttpRequest, result: dict[str, Any] | None = None) -> HttpResponse:
        play = {
            "tokenPath": "/play/token",
            "completePath": "/api/v1/actions/complete",
            "updatePath": "/api/v1/scores/update",
            "userId": str(request.user.pk),
        }
        types = ActionType.objects.filter(enabled=True).values("slug", "label", "points", "description")
        return render(request, "play.html", {"action_types": list(types), "play": play, "result": result})

    def post(self, request: HttpRequest) -> HttpResponse:
        try:
            done = async_to_sync(self._play)(request)
        except Refusal as refusal:
            return self.get(request, {"ok": False, "message": refusal.message})
        message = _("%(points)d points added.") % {"points": done.points}
        result = {"ok": True, "message": message, "pointsAwarded": done.points}
        return self.get(request, result | {"newScore": done.new_score, "newRank": done.rank})

    async def _play(self, request: HttpRequest) -> Redemption:
        id_ = request_id.current.get()
        player_id = uuid.UUID(str(request.user.pk))
        wish = CompleteBody(data={"actionType": request.POST.get("actionType", "")})
        if not wish.is_valid():
            raise ActionNotAllowed
        issued = await complete(Completion(player_id, wish.validated_data["actionType"], {}, None, id_))
        address = _address(request)
        return await redeem(
            token=issued.score_token, action_id=str(issued.action_id), player_id=player_id, request_id=id_, address=address
        )


@require_POST
@never_cache
def play_token(request: HttpRequest) -> HttpResponse:
    """An access token for the page's own calls of the API; session and CSRF token say who asks."""
    player = request.user
    if not player.is_authenticated:
        return refused(Unauthorized("Sign in again: the session has ended."))
    return success({"access": sign_in.access_for(uuid.UUID(str(player.pk)), player.access_epoch)})
