"""What ends a player's access, whichever door it comes through: a new password, and deactivation."""

from django.db import migrations

# On every update, so that a row that Python read earlier and saves whole cannot bring an old epoch back.
_ACCESS_ENDS = """
CREATE FUNCTION scoreboard_end_access() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.access_epoch := OLD.access_epoch;
    NEW.access_ended_at := OLD.access_ended_at;
    IF NEW.password IS DISTINCT FROM OLD.password OR (OLD.is_active AND NOT NEW.is_active) THEN
        NEW.access_epoch := OLD.access_epoch + 1;
        NEW.access_ended_at := clock_timestamp();
        UPDATE scoreboard_project_signin SET ended_at = clock_timestamp() WHERE player_id = NEW.id AND ended_at IS NULL;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER access_ends BEFORE UPDATE ON leaderboard_player
    FOR EACH ROW EXECUTE FUNCTION scoreboard_end_access();
"""
_ACCESS_ENDS_UNDONE = """
DROP TRIGGER access_ends ON leaderboard_player;
DROP FUNCTION scoreboard_end_access;
"""


class Migration(migrations.Migration):
    dependencies = [("scoreboard_project", "0001_initial"), ("leaderboard", "0003_access_epoch")]
    operations = [migrations.RunSQL(_ACCESS_ENDS, _ACCESS_ENDS_UNDONE)]
