"""What the models cannot say: history is never rewritten, and every player has a score."""

from django.db import migrations

_APPEND_ONLY = """
CREATE FUNCTION leaderboard_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: correct it with a new line', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER ledger_is_append_only BEFORE UPDATE OR DELETE ON leaderboard_scoreentry
    FOR EACH ROW EXECUTE FUNCTION leaderboard_refuse_change();
CREATE TRIGGER ledger_is_never_emptied BEFORE TRUNCATE ON leaderboard_scoreentry
    FOR EACH STATEMENT EXECUTE FUNCTION leaderboard_refuse_change();
CREATE TRIGGER acts_are_append_only BEFORE UPDATE OR DELETE ON leaderboard_moderationact
    FOR EACH ROW EXECUTE FUNCTION leaderboard_refuse_change();
CREATE TRIGGER acts_are_never_emptied BEFORE TRUNCATE ON leaderboard_moderationact
    FOR EACH STATEMENT EXECUTE FUNCTION leaderboard_refuse_change();
"""
_APPEND_ONLY_UNDONE = """
DROP TRIGGER ledger_is_append_only ON leaderboard_scoreentry;
DROP TRIGGER ledger_is_never_emptied ON leaderboard_scoreentry;
DROP TRIGGER acts_are_append_only ON leaderboard_moderationact;
DROP TRIGGER acts_are_never_emptied ON leaderboard_moderationact;
DROP FUNCTION leaderboard_refuse_change;
"""

_EVERY_PLAYER_HAS_A_SCORE = """
CREATE FUNCTION leaderboard_give_score() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO leaderboard_score (player_id) VALUES (NEW.id) ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER every_player_has_a_score AFTER INSERT ON leaderboard_player
    FOR EACH ROW EXECUTE FUNCTION leaderboard_give_score();
"""
_EVERY_PLAYER_HAS_A_SCORE_UNDONE = """
DROP TRIGGER every_player_has_a_score ON leaderboard_player;
DROP FUNCTION leaderboard_give_score;
"""


class Migration(migrations.Migration):
    dependencies = [("leaderboard", "0001_initial")]
    operations = [
        migrations.RunSQL(_APPEND_ONLY, _APPEND_ONLY_UNDONE),
        migrations.RunSQL(_EVERY_PLAYER_HAS_A_SCORE, _EVERY_PLAYER_HAS_A_SCORE_UNDONE),
    ]
