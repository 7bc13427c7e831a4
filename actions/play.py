"""`/play/`: complete an action and redeem its token, through the public API with JavaScript, as plain forms without."""

import re
import uuid
from typing import Any

from asgiref.sync import async_to_sync
from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from actions import quiz
from actions.completion import Completion, complete
from actions.kinds import KINDS
from actions.models import ActionType
from actions.redemption import Redemption, redeem
from actions.verification import ActionNotAllowed
from actions.wording import SAID, said
from scoreboard_project import request_id, sign_in
from scoreboard_project.api import refused, success
from scoreboard_project.errors import Refusal, Unauthorized
from scoreboard_project.request_id import client_address

_FEW_DIGITS = re.compile(r"[0-9]{1,18}")


@method_decorator([login_required, never_cache], name="dispatch")
class PlayPage(View):
    def get(self, request: HttpRequest, **more: Any) -> HttpResponse:
        play = {
            "tokenPath": "/play/token",
            "startPath": "/api/v1/actions/start",
            "completePath": "/api/v1/actions/complete",
            "updatePath": "/api/v1/scores/update",
            "userId": str(request.user.pk),
        }
        players_own = [kind.kind for kind in KINDS.values() if not kind.by_server]
        types = ActionType.objects.filter(enabled=True, verification__in=players_own)
        fields = ("slug", "label", "points", "description", "verification")
        return render(request, "play.html", {"action_types": list(types.values(*fields)), "play": play, "said": SAID, **more})

    def post(self, request: HttpRequest) -> HttpResponse:
        slug = request.POST.get("actionType", "")[:64].replace("\x00", "")
        try:
            if "start" in request.POST:
                attempt = quiz.start(slug, _player_id(request))
                return self.get(request, quiz={"slug": slug, "attemptId": attempt.id, "questions": quiz.asked(attempt)})
            done = async_to_sync(_play)(request, slug)
        except Refusal as refusal:
            return self.get(request, result={"ok": False, "message": said(refusal)})
        result = {"ok": True, "pointsAwarded": done.points}
        return self.get(request, result=result | {"newScore": done.new_score, "newRank": done.rank})


async def _play(request: HttpRequest, slug: str) -> Redemption:
    id_, player_id = request_id.current.get(), _player_id(request)
    try:
        issued = (await complete(Completion(player_id, slug, _evidence(request), None, id_))).wire()
    except ActionNotAllowed as refusal:
        if not refusal.details or "completion" not in refusal.details:
            raise
        # Completed before, but not redeemed: the answer got lost on its way to this browser.
        issued = refusal.details["completion"]
    return await redeem(
        token=issued["scoreToken"],
        action_id=issued["actionId"],
        player_id=player_id,
        request_id=id_,
        address=client_address(request.scope, settings.TRUSTED_PROXY_HOPS),  # type: ignore[attr-defined]
    )


def _evidence(request: HttpRequest) -> dict[str, Any]:
    """What the quiz's form sends, in the words of the API; what is no number as a browser would send it is left out."""
    if "attemptId" not in request.POST:
        return {}
    chosen = {name.removeprefix("answer-"): str(place) for name, place in request.POST.items() if name.startswith("answer-")}
    answers = {id_: int(place) for id_, place in chosen.items() if _FEW_DIGITS.fullmatch(id_) and _FEW_DIGITS.fullmatch(place)}
    return {"attemptId": request.POST["attemptId"][:64].replace("\x00", ""), "answers": answers}


def _player_id(request: HttpRequest) -> uuid.UUID:
    return uuid.UUID(str(request.user.pk))


@require_POST
@never_cache
def play_token(request: HttpRequest) -> HttpResponse:
    """An access token for the page's own calls of the API; session and CSRF token say who asks."""
    player = request.user
    if not player.is_authenticated:
        return refused(Unauthorized("Sign in again: the session has ended."))
    return success({"access": sign_in.access_for(_player_id(request), player.access_epoch)})
