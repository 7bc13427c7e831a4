"""Staff's desk: everything can be looked at, history cannot be touched, and every act has its reason and its line."""

import asyncio
import re
import uuid
from typing import Any

import httpx
import pytest
from asgiref.sync import sync_to_async
from django.apps import apps
from django.conf import settings as django_settings
from django.contrib import admin
from django.contrib.auth.models import Permission
from django.contrib.sessions.models import Session
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from actions import server_keys
from actions.models import ActionLog, ActionTally, ActionType, AlertDelivery, Flag, Question, QuizAttempt, ServerKey
from leaderboard import board, ledger, moderation
from leaderboard.models import MAX_SCORE, BestRank, ModerationAct, PastPeriod, PastScore, Player, Score, ScoreEntry
from scoreboard_project import sign_in
from scoreboard_project.errors import Unauthorized
from scoreboard_project.models import SignIn
from tests.conftest import PASSWORD, Api, make_player, serving
from tests.test_live import watching

LABELS = ("leaderboard", "actions", "scoreboard_project")
OURS = [model for model in admin.site._registry if model._meta.app_label in LABELS]
HISTORY = [Score, ScoreEntry, ModerationAct, ActionLog, ActionTally, Flag, SignIn, QuizAttempt, AlertDelivery]


@pytest.fixture
def superuser(world):
    return make_player("superuser", is_staff=True, is_superuser=True)


@pytest.fixture
def desks(moderator, superuser):
    """A browser for each kind of staff: a member of the group that migrating makes, and a superuser."""
    browsers = {"moderator": Client(), "superuser": Client()}
    browsers["moderator"].force_login(moderator)
    browsers["superuser"].force_login(superuser)
    return browsers


def award(player: Player, points: int) -> ScoreEntry:
    """Points that nobody's act gave, written as redeeming writes them."""
    statement = ledger.award_statement(
        "SELECT 1 AS i, %(source)s::uuid AS source, %(player)s::uuid AS player_id, %(points)s::bigint AS points, NULL AS refusal"
    )
    source = uuid.uuid4()
    lines = ledger.award(statement, {"source": source, "player": player.pk, "points": points}, ["test"])
    assert lines[1].verdict == "paid"
    return ScoreEntry.objects.get(source=source)


@pytest.fixture
def history(alice, moderator):
    """One object of every model, as the application leaves them."""
    entry = award(alice, 100)
    moderation.adjust(player_id=alice.pk, points=5, moderator=moderator, reason="x")
    quiz = ActionType.objects.get(slug="level_up")
    now = timezone.now()
    log = ActionLog.objects.create(
        token_id=uuid.uuid4(), player=alice, action_type=quiz, points=100, request_id="r", expires_at=now
    )
    tally = ActionTally.objects.create(player=alice, action_type=quiz, day=now.date(), count=1, last_at=now)
    flag = Flag.objects.create(kind=Flag.Kind.FAST_GAIN, subject=str(alice.pk), player=alice)
    sign_in.begin(alice)
    attempt = QuizAttempt.objects.create(player=alice, action_type=quiz, questions=[], expires_at=now)
    key, _ = server_keys.issue("the game", ["level_up"])
    objects = [entry, log, tally, flag, quiz, alice, alice.score, ModerationAct.objects.get(), SignIn.objects.get()]
    objects += [attempt, key, Question.objects.first(), AlertDelivery.objects.create(flag=flag, channel="webhook")]
    found = {type(one): one for one in objects}
    assert set(found) == set(OURS), "a model without an example"
    return found


def address(model: Any, page: str, *args: Any) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=args)


# --- Looking and not touching -----------------------------------------------------------------------------------------


RIGHT_ANSWERS = {Question, QuizAttempt}  # moderators play too


@pytest.mark.parametrize("who", ["moderator", "superuser"])
def test_every_list_and_every_object_opens(desks, history, who):
    assert desks[who].get("/admin/").status_code == 200
    for model in OURS:
        if who == "moderator" and model in RIGHT_ANSWERS:
            assert desks[who].get(address(model, "changelist")).status_code == 403
            assert desks[who].get(address(model, "change", history[model].pk)).status_code == 403
            continue
        listed = desks[who].get(address(model, "changelist"))
        assert listed.status_code == 200, model
        assert 'id="result_list"' in listed.text, model
        one = desks[who].get(address(model, "change", history[model].pk))
        assert one.status_code == 200, model
        searched = desks[who].get(address(model, "changelist"), {"q": "alice"})
        assert searched.status_code == 200, model


def test_the_superuser_s_forms_open_and_their_lists_filter(desks, history):
    for model in (Player, ActionType, Question, ServerKey):
        assert desks["superuser"].get(address(model, "add")).status_code == 200
    for where in ("?suspended__exact=1", "?hidden__exact=0"):
        assert desks["superuser"].get(address(Score, "changelist") + where).status_code == 200
    assert desks["superuser"].get(address(ScoreEntry, "changelist") + "?act__isempty=1").status_code == 200
    assert desks["superuser"].get(address(Flag, "changelist") + "?closed_at__isempty=1").status_code == 200
    assert desks["superuser"].get(address(Player, "history", history[Player].pk)).status_code == 200


def state() -> list[Any]:
    return [list(model.objects.order_by("pk").values()) for model in HISTORY]


@pytest.mark.parametrize("who", ["moderator", "superuser"])
def test_history_cannot_be_added_to_changed_or_deleted(desks, history, who):
    before = state()
    desk = desks[who]
    for model in HISTORY:
        pk = history[model].pk
        assert desk.get(address(model, "add")).status_code == 403, model
        assert desk.post(address(model, "add"), {"player": history[Player].pk, "points": 1}).status_code == 403, model
        assert desk.get(address(model, "delete", pk)).status_code == 403, model
        assert desk.post(address(model, "delete", pk), {"post": "yes"}).status_code == 403, model
        form = {"total_score": 999, "points": 999, "suspended": "on", "reason": "forged", "player": history[Player].pk}
        assert desk.post(address(model, "change", pk), form).status_code == 403, model
        chosen = {"action": "delete_selected", "_selected_action": [pk], "post": "yes"}
        desk.post(address(model, "changelist"), chosen)
        page = desk.get(address(model, "change", pk)).text
        assert 'name="_save"' not in page and "deletelink" not in page, model
        forged = {
            "form-TOTAL_FORMS": 1,
            "form-INITIAL_FORMS": 1,
            "form-0-total_score": 999,
            "form-0-points": 999,
            "_save": "Save",
        }
        desk.post(address(model, "changelist"), forged | {"form-0-pk": pk})
    assert state() == before


def test_a_player_with_a_history_cannot_be_deleted_not_even_by_a_superuser(desks, history):
    alice = history[Player]
    desks["superuser"].post(address(Player, "delete", alice.pk), {"post": "yes"})
    chosen = {"action": "delete_selected", "_selected_action": [alice.pk], "post": "yes"}
    desks["superuser"].post(address(Player, "changelist"), chosen)
    assert Player.objects.filter(pk=alice.pk).exists()


def test_moderators_look_at_accounts_and_the_catalogue_and_change_neither(desks, history):
    for model in (Player, ActionType, Question, ServerKey):
        pk = history[model].pk
        for page in (address(model, "add"), address(model, "delete", pk)):
            assert desks["moderator"].post(page, {"points": 9999, "username": "x"}).status_code == 403
        assert desks["moderator"].post(address(model, "change", pk), {"points": 9999, "username": "x"}).status_code == 403
    assert ActionType.objects.get(slug="level_up").points == 100


def test_who_is_not_staff_gets_no_further_than_the_sign_in(world, alice):
    stranger = Client()
    stranger.force_login(alice)
    for model in OURS:
        assert stranger.get(address(model, "changelist")).status_code == 302
    assert Client().get("/admin/").headers["Location"] == "/admin/login/?next=/admin/"
    answer = Client().post("/admin/login/?next=/admin/", {"username": "alice", "password": PASSWORD})
    assert answer.status_code == 200 and "staff account" in answer.text


def test_admin_pages_keep_the_strict_policy(staff, history):
    for where in ("/admin/", address(Score, "changelist"), address(Score, "change", history[Score].pk)):
        answer = staff.get(where)
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script>", answer.text), where


# --- Acts of moderation -----------------------------------------------------------------------------------------------


def choose(desk: Client, action: str, *objects: Any, **form: Any) -> Any:
    chosen = {"action": action, "_selected_action": [one.pk for one in objects], **form}
    return desk.post(address(type(objects[0]), "changelist"), chosen, follow="confirm" in form)


def act(desk: Client, action: str, *objects: Any, reason: str = "because", **form: Any) -> list[str]:
    """Choose, confirm with a reason; the messages that came of it."""
    answer = choose(desk, action, *objects, confirm="yes", reason=reason, **form)
    assert answer.status_code == 200
    return [f"{message.level_tag}: {message}" for message in answer.context["messages"]]


def on_board() -> dict[str, int]:
    return {row["username"]: row["score"] for row in board.top().rows}


ACTS = {
    "suspend": ({}, {"suspended": True}),
    "reinstate": ({"suspended": True}, {"suspended": False}),
    "hide": ({}, {"hidden": True}),
    "show": ({"hidden": True}, {"hidden": False}),
}


@pytest.mark.parametrize("action", ACTS)
def test_a_switch_asks_for_a_reason_and_then_is_thrown(staff, moderator, alice, action):
    before, after = ACTS[action]
    award(alice, 100)
    score = Score.objects.get(player=alice)
    if before:
        ledger_change = {"suspended": moderation.suspend, "hidden": moderation.hide}[next(iter(before))]
        ledger_change(player_id=alice.pk, moderator=moderator, reason="earlier")
    acts = ModerationAct.objects.count()
    switches = list(Score.objects.filter(pk=score.pk).values())

    asked = choose(staff, action, score)
    assert asked.status_code == 200
    assert 'name="reason"' in asked.text and "alice: 100" in asked.text
    assert f'name="_selected_action" value="{score.pk}"' in asked.text
    assert "This field is required." not in asked.text  # nothing has been answered yet
    assert choose(staff, action, score, reason="not confirmed").status_code == 200
    for blank in ("", "   ", "\n\t"):
        again = choose(staff, action, score, confirm="yes", reason=blank)
        assert again.status_code == 200 and "This field is required." in again.text
    too_long = choose(staff, action, score, confirm="yes", reason="x" * 501)
    assert "at most 500 characters" in too_long.text
    assert ModerationAct.objects.count() == acts
    assert list(Score.objects.filter(pk=score.pk).values()) == switches

    assert act(staff, action, score, reason="  seen on video  ") == ["success: 1 done."]
    score.refresh_from_db()
    assert {name: getattr(score, name) for name in after} == after
    written = ModerationAct.objects.latest("created_at")
    assert (written.verb, written.player_id, written.moderator_id) == (action, alice.pk, moderator.pk)
    assert written.reason == "seen on video"
    assert ModerationAct.objects.count() == acts + 1
    assert on_board() == ({"alice": 100} if score.listed else {})
    assert score.total_score == 100 and ScoreEntry.objects.count() == 1  # a switch moves no points

    already = act(staff, action, score)
    assert already == ["error: alice: 100: The player is already in that state."]
    assert ModerationAct.objects.count() == acts + 1


def test_several_are_done_at_once_and_a_refusal_stops_only_its_own(staff, moderator, alice, bob):
    award(alice, 100)
    award(bob, 50)
    moderation.suspend(player_id=alice.pk, moderator=moderator, reason="earlier")
    told = act(staff, "suspend", alice.score, bob.score)
    assert sorted(told) == ["error: alice: 100: The player is already in that state.", "success: 1 done."]
    assert on_board() == {}
    assert ModerationAct.objects.filter(player=bob, verb="suspend").count() == 1


def test_an_adjustment_is_a_line_in_the_ledger_with_its_act(staff, moderator, alice):
    award(alice, 100)
    asked = choose(staff, "adjust", alice.score)
    assert 'name="points"' in asked.text
    for wrong in ("", "1.5", "many"):
        assert choose(staff, "adjust", alice.score, confirm="yes", reason="x", points=wrong).status_code == 200
    assert ScoreEntry.objects.count() == 1

    assert act(staff, "adjust", alice.score, points="-30") == ["success: 1 done."]
    line = ScoreEntry.objects.latest("id")
    assert (line.points, line.score_after, line.player_id, line.reverses) == (-30, 70, alice.pk, None)
    assert line.act is not None and line.source == line.act.pk
    assert (line.act.verb, line.act.reason, line.act.moderator_id) == ("adjust", "because", moderator.pk)
    assert Score.objects.get(player=alice).total_score == 70
    assert on_board() == {"alice": 70}


REFUSED = {
    "-101": "That would take the score below zero.",
    "0": "An adjustment of 0 points changes nothing.",
    str(MAX_SCORE): "That would take the score above what it can hold.",
    str(2**63): "That would take the score above what it can hold.",
    "9" * 400: "That would take the score above what it can hold.",
    "-" + "9" * 400: "That would take the score below zero.",
}


@pytest.mark.parametrize("points", REFUSED, ids=lambda points: points[:20])
def test_an_adjustment_that_cannot_be_is_refused_with_a_sentence(staff, alice, points):
    award(alice, 100)
    assert act(staff, "adjust", alice.score, points=points) == [f"error: alice: 100: {REFUSED[points]}"]
    assert not ModerationAct.objects.exists() and ScoreEntry.objects.count() == 1
    assert Score.objects.get(player=alice).total_score == 100


def test_an_award_is_reversed_once_with_a_line_of_its_own(staff, moderator, alice):
    award(alice, 100)
    wrong = award(alice, 50)
    assert "Take these awards back?" in choose(staff, "reverse", wrong).text
    assert "This field is required." in choose(staff, "reverse", wrong, confirm="yes", reason=" ").text
    assert ScoreEntry.objects.count() == 2

    assert act(staff, "reverse", wrong) == ["success: 1 done."]
    line = ScoreEntry.objects.latest("id")
    assert (line.points, line.score_after, line.reverses_id) == (-50, 100, wrong.pk)
    assert line.act is not None and (line.act.verb, line.act.moderator_id) == ("reverse", moderator.pk)
    assert on_board() == {"alice": 100}

    assert act(staff, "reverse", wrong) == [f"error: {wrong}: This award has already been reversed."]
    assert act(staff, "reverse", line) == [f"error: {line}: Only an award can be reversed."]
    assert ScoreEntry.objects.count() == 3 and ModerationAct.objects.count() == 1


def test_a_reversal_takes_no_more_than_there_is(staff, moderator, alice):
    first = award(alice, 100)
    moderation.adjust(player_id=alice.pk, points=-60, moderator=moderator, reason="earlier")
    assert act(staff, "reverse", first) == [f"error: {first}: That would take the score below zero."]
    assert Score.objects.get(player=alice).total_score == 40
    assert ModerationAct.objects.count() == 1


def test_without_the_permission_an_act_is_not_offered_and_does_nothing(staff, moderator, alice):
    entry = award(alice, 100)
    moderator.groups.clear()
    looks = Permission.objects.filter(codename__in=["view_score", "view_scoreentry", "view_flag", "view_signin"])
    moderator.user_permissions.set(looks)
    flag = Flag.objects.create(kind=Flag.Kind.FAST_GAIN, subject=str(alice.pk), player=alice)
    for model in (Score, ScoreEntry, Flag, SignIn):
        page = staff.get(address(model, "changelist"))
        assert page.status_code == 200 and 'name="action"' not in page.text
    for action, one in [("suspend", alice.score), ("hide", alice.score), ("adjust", alice.score), ("reverse", entry)]:
        choose(staff, action, one, confirm="yes", reason="x", points="1")
    choose(staff, "close", flag)
    sign_in.begin(alice)
    choose(staff, "end", SignIn.objects.get())
    assert SignIn.objects.get().ended_at is None
    assert not ModerationAct.objects.exists() and ScoreEntry.objects.count() == 1
    flag.refresh_from_db()
    assert flag.closed_at is None


def test_a_flag_is_closed_once_by_whoever_looked(staff, moderator, alice, superuser):
    flag = Flag.objects.create(kind=Flag.Kind.FAST_GAIN, subject=str(alice.pk), player=alice)
    answer = staff.post(address(Flag, "changelist"), {"action": "close", "_selected_action": [flag.pk]}, follow=True)
    assert "1 closed." in answer.text
    flag.refresh_from_db()
    assert flag.closed_by == moderator and flag.closed_at is not None
    other = Client()
    other.force_login(superuser)
    other.post(address(Flag, "changelist"), {"action": "close", "_selected_action": [flag.pk]})
    flag.refresh_from_db()
    assert flag.closed_by == moderator


def test_a_sign_in_that_staff_ended_is_refreshed_no_more(staff, alice, bob):
    hers, his = sign_in.begin(alice), sign_in.begin(bob)
    answer = staff.post(
        address(SignIn, "changelist"), {"action": "end", "_selected_action": [SignIn.objects.get(player=alice).pk]}
    )
    assert answer.status_code == 302
    with pytest.raises(Unauthorized):
        sign_in.refresh(hers["refresh"])
    assert sign_in.refresh(his["refresh"])


def test_what_a_moderator_writes_is_shown_as_text(staff, history, alice):
    act(staff, "suspend", alice.score, reason="<script>alert(1)</script>")
    page = staff.get(address(ModerationAct, "changelist")).text
    assert "<script>alert(1)" not in page and "&lt;script&gt;alert(1)" in page


# --- Accounts ---------------------------------------------------------------------------------------------------------


def account(player: Player, **changed: Any) -> dict[str, Any]:
    return {"username": player.username, "email": "", "avatar_url": "", "is_active": "on", **changed}


def test_a_new_name_or_avatar_shows_on_the_board(desks, alice, settings):
    settings.AVATAR_HOSTS = ["*"]
    award(alice, 100)
    desk = desks["superuser"]
    changed = account(alice, username="alicia", avatar_url="https://cdn.example/a.png")
    assert desk.post(address(Player, "change", alice.pk), changed).status_code == 302
    (row,) = board.top().rows
    assert (row["username"], row["avatarUrl"], row["score"]) == ("alicia", "https://cdn.example/a.png", 100)
    seq = board.top().seq
    alice.refresh_from_db()
    assert desk.post(address(Player, "change", alice.pk), account(alice, avatar_url="")).status_code == 302
    assert board.top().rows[0]["avatarUrl"] is None and board.top().seq > seq


def test_an_avatar_is_a_web_address_and_a_name_is_taken_once(desks, alice, bob, settings):
    settings.AVATAR_HOSTS = ["*"]
    desk = desks["superuser"]
    insecure = ("http://cdn.example/a.png", "ftp://cdn.example/a.png")
    for avatar in (*insecure, "javascript:alert(1)", "data:text/html,x", "not an address", "https://x/" + "a" * 500):
        answer = desk.post(address(Player, "change", alice.pk), account(alice, avatar_url=avatar))
        assert answer.status_code == 200 and "errorlist" in answer.text, avatar
    for name in ("bob", "BOB", "", "x" * 33, "<script>", "a b"):
        answer = desk.post(address(Player, "change", alice.pk), account(alice, username=name))
        assert answer.status_code == 200 and "errorlist" in answer.text, name
    alice.refresh_from_db()
    assert (alice.username, alice.avatar_url) == ("alice", None)


def test_an_account_that_is_made_here_has_a_score_at_once(desks):
    new = {"username": "newcomer", "usable_password": "true", "password1": "a decent secret", "password2": "a decent secret"}
    answer = desks["superuser"].post(address(Player, "add"), new)
    assert answer.status_code == 302, answer.text
    player = Player.objects.get(username="newcomer")
    assert player.score.total_score == 0 and player.email is None


# --- On a real server -------------------------------------------------------------------------------------------------


async def test_an_open_socket_sees_a_suspension_within_a_second(alice, bob, moderator, tmp_path):
    session = Client()
    await sync_to_async(session.force_login)(moderator)
    cookies = {django_settings.SESSION_COOKIE_NAME: session.cookies[django_settings.SESSION_COOKIE_NAME].value}
    with serving(tmp_path) as server:
        async with server.api() as http, watching(server) as viewer:
            played = Api(http)
            await played.earn(alice)
            await played.earn(bob, "task_finish")
            while len((await viewer.hear("leaderboard:update"))["leaderboard"]) < 2:
                pass
            async with httpx.AsyncClient(base_url=server.url, cookies=cookies) as desk:
                where = address(Score, "changelist")
                token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', (await desk.get(where)).text)
                assert token
                form = {"csrfmiddlewaretoken": token[1], "action": "suspend", "_selected_action": str(alice.pk)}
                assert 'name="reason"' in (await desk.post(where, data=form)).text
                form |= {"confirm": "yes", "reason": "seen on video"}
                answer, update = await asyncio.gather(desk.post(where, data=form), viewer.hear("leaderboard:update", seconds=1))
                assert answer.status_code == 302
                assert [row["username"] for row in update["leaderboard"]] == ["bob"]
                unsigned = {name: value for name, value in form.items() if name != "csrfmiddlewaretoken"}
                assert (await desk.post(where, data=unsigned)).status_code == 403
    assert await ModerationAct.objects.acount() == 1


def test_every_model_of_ours_has_its_page():
    ours = {model for label in LABELS for model in apps.get_app_config(label).get_models()}
    copies = {PastPeriod, PastScore, BestRank}  # of what the ledger says, for pages and boards
    assert ours - copies == set(OURS)


# --- The catalogue ----------------------------------------------------------------------------------------------------


@pytest.fixture
def owner(superuser):
    browser = Client()
    browser.force_login(superuser)
    return browser


NEW_TYPE = {"slug": "cup", "label": "Cup", "points": "500", "enabled": "on", "settings": "{}", "cooldown_seconds": "0"}


def test_a_type_is_checked_by_the_kind_that_it_names(owner):
    add = address(ActionType, "add")
    refused = owner.post(add, NEW_TYPE | {"verification": "cooldown"})
    assert "needs a cooldown and a daily cap" in refused.text
    refused = owner.post(add, NEW_TYPE | {"verification": "quiz", "settings": '{"questions": 2}'})
    assert "More right answers than questions" in refused.text
    assert "Select a valid choice" in owner.post(add, NEW_TYPE | {"verification": "believe_me"}).text
    assert not ActionType.objects.filter(slug="cup").exists()
    assert owner.post(add, NEW_TYPE | {"verification": "quiz", "settings": '{"questions": 4}'}).status_code == 302
    made = ActionType.objects.get(slug="cup")
    assert made.settings.items() >= {"questions": 4, "right_to_pass": 3, "least_seconds": 3.0}.items()
    assert 'name="questions-TOTAL_FORMS"' in owner.get(address(ActionType, "change", "cup")).text


@pytest.mark.parametrize("wrong", ["Right", "A\nA", "\n".join("ABCDEFGH"), " \n "])
def test_a_question_has_one_right_answer_and_others_that_differ(owner, wrong):
    sent = {"action_type": "quiz_complete", "text": "Which?", "right": "Right", "wrong": wrong}
    assert owner.post(address(Question, "add"), sent).status_code == 200
    assert owner.post(address(Question, "add"), sent | {"wrong": "A\nB"}).status_code == 302
    assert Question.objects.get(text="Which?").wrong_answers == ["A", "B"]


def test_a_server_key_is_shown_once_names_its_actions_and_can_be_revoked(owner):
    ActionType.objects.create(slug="match_won", label="Match", points=250, verification="trusted")
    assert "Select a valid choice" in owner.post(address(ServerKey, "add"), {"name": "x", "action_types": ["level_up"]}).text
    answer = owner.post(address(ServerKey, "add"), {"name": "the game", "action_types": ["match_won"]})
    [key] = set(re.findall(r"sbk_[\w-]{43}", answer.text))
    assert answer.status_code == 200 and "no-store" in answer["Cache-Control"]
    assert "messages" not in answer.cookies  # where it could be read
    assert not any(key in str(session.get_decoded()) for session in Session.objects.all())
    record = server_keys.holder(key)
    assert server_keys.may_complete(record, "match_won")
    changed = owner.get(address(ServerKey, "change", record.pk))
    assert key not in changed.text and 'name="name"' not in changed.text
    assert owner.post(address(ServerKey, "delete", record.pk), {"post": "yes"}).status_code == 403
    owner.post(address(ServerKey, "changelist"), {"action": "revoke", "_selected_action": str(record.pk)})
    with pytest.raises(Unauthorized):
        server_keys.holder(key)
