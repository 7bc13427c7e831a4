"""Django's sessions, whose keys are looked at before anything is asked for them."""

import re

from django.contrib.sessions.backends.cached_db import SessionStore as CachedSessions

_KEY = re.compile(r"[a-z0-9]{32}")  # what Django makes


class SessionStore(CachedSessions):
    """A cookie can hold anything, NUL included, which PostgreSQL answers with an error: what is no key is no session."""

    def _validate_session_key(self, key: object) -> bool:
        return isinstance(key, str) and _KEY.fullmatch(key) is not None
