"""A completion says what may be paid, to whom and until when: nobody makes it worth more, somebody else's, or longer-lived."""

from django.db import migrations

CREATE = """
CREATE FUNCTION actions_refuse_edit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'completed actions are history: % refused', lower(TG_OP) USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER completions_keep_their_worth BEFORE UPDATE ON actions_actionlog FOR EACH ROW
WHEN ((OLD.action_id, OLD.token_id, OLD.player_id, OLD.action_type_id, OLD.points)
          IS DISTINCT FROM (NEW.action_id, NEW.token_id, NEW.player_id, NEW.action_type_id, NEW.points)
      OR NEW.expires_at > OLD.expires_at)
EXECUTE FUNCTION actions_refuse_edit();
CREATE TRIGGER completions_are_never_deleted BEFORE DELETE ON actions_actionlog FOR EACH ROW
EXECUTE FUNCTION actions_refuse_edit();
"""
DROP = """
DROP TRIGGER completions_keep_their_worth ON actions_actionlog;
DROP TRIGGER completions_are_never_deleted ON actions_actionlog;
DROP FUNCTION actions_refuse_edit();
"""


class Migration(migrations.Migration):
    dependencies = [("actions", "0006_quiz_pace_and_bounds")]
    operations = [migrations.RunSQL(CREATE, DROP)]
