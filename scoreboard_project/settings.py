"""Every setting, once. The environment decides; docs/settings.md explains each name."""

import os
import sys
from datetime import timedelta
from pathlib import Path

from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured
from psycopg.conninfo import conninfo_to_dict

from scoreboard_project import engines, env, logs

BASE_DIR = Path(__file__).resolve().parent.parent

# --- Where it listens and keeps its files -----------------------------------------------------------------------------
HOST = env.text("HOST", "127.0.0.1")
PORT = env.whole("PORT", 8000)
WEB_PROCESSES = env.whole("WEB_PROCESSES", 1, least=1)
DATA_DIR = Path(env.text("DATA_DIR", str(BASE_DIR / ".data"))).resolve()
DEBUG = env.switch("DEBUG")
SAMPLE_DATA = env.switch("SAMPLE_DATA")

# --- PostgreSQL and Redis ---------------------------------------------------------------------------------------------
EMBEDDED_POSTGRES = not env.text("DATABASE_URL", "")
EMBEDDED_REDIS = not env.text("REDIS_URL", "")
DATABASE_URL = env.text("DATABASE_URL", engines.postgres_url(DATA_DIR))
REDIS_URL = env.text("REDIS_URL", engines.redis_url(DATA_DIR))


# A host that is gone without a word (no reset, no FIN) is noticed within about ten seconds.
_LOST_HOST = {"keepalives_idle": 3, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 8_000}


def _database(name: str, url: str) -> dict:
    try:
        parts = conninfo_to_dict(url)
    except Exception as exc:
        raise ImproperlyConfigured(f"{name} is not a PostgreSQL URL (postgresql://user:password@host/database).") from exc
    known = {key: str(parts.pop(key, None) or "") for key in ("dbname", "user", "password", "host", "port")}
    pool = {"min_size": 1, "max_size": 10, "timeout": 1, "max_waiting": 100}
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": known["dbname"],
        "USER": known["user"],
        "PASSWORD": known["password"],
        "HOST": known["host"],
        "PORT": known["port"],
        "CONN_MAX_AGE": 0,
        "CONN_HEALTH_CHECKS": True,
        # Django turns prepared statements off; the batches' statements cost more to plan than to run. (Behind PgBouncer:
        # version 1.21 or newer, with max_prepared_statements set.)
        "OPTIONS": {"pool": pool, "connect_timeout": 2, "prepare_threshold": 5, **_LOST_HOST, **parts},
    }


DATABASES = {"default": _database("DATABASE_URL", DATABASE_URL)}
if env.text("DATABASE_REPLICA_URL", ""):
    DATABASES["replica"] = _database("DATABASE_REPLICA_URL", env.text("DATABASE_REPLICA_URL")) | {"TEST": {"MIRROR": "default"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
CACHES = {
    "default": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": REDIS_URL,
        "KEY_PREFIX": "cache",
        "OPTIONS": {
            # The library's default is pickle: code execution for whoever can write to Redis.
            "SERIALIZER": "django_redis.serializers.json.JSONSerializer",
            "IGNORE_EXCEPTIONS": True,
            "SOCKET_TIMEOUT": 0.25,
            "SOCKET_CONNECT_TIMEOUT": 0.25,
        },
    }
}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": [{"address": REDIS_URL, "socket_timeout": 5, "socket_connect_timeout": 2}]},
    }
}

# --- Secrets: made once for the embedded default, required otherwise --------------------------------------------------
_made = engines.secrets(DATA_DIR) if EMBEDDED_POSTGRES else {}
SECRET_KEY = env.text("SECRET_KEY", _made.get("SECRET_KEY"))
JWT_SIGNING_KEY = env.text("JWT_SIGNING_KEY", _made.get("JWT_SIGNING_KEY"))
SCORE_TOKEN_KEYS = env.key_ring(env.text("SCORE_TOKEN_KEYS", _made.get("SCORE_TOKEN_KEYS")))
if len(JWT_SIGNING_KEY.encode()) < env.LEAST_SECRET_BYTES:
    raise ImproperlyConfigured("JWT_SIGNING_KEY is shorter than 32 bytes.")

# --- The scoreboard's own numbers -------------------------------------------------------------------------------------
ACTION_RATE_LIMIT = env.whole("ACTION_RATE_LIMIT", 10)
SCORE_RATE_LIMIT = env.whole("SCORE_RATE_LIMIT", 10)
SIGN_IN_FAILURE_LIMIT = env.whole("SIGN_IN_FAILURE_LIMIT", 5)
SIGN_IN_ADDRESS_LIMIT = env.whole("SIGN_IN_ADDRESS_LIMIT", 30)
SIGN_UP = env.one_of("SIGN_UP", "open" if EMBEDDED_POSTGRES else "closed", ("open", "closed"))
SIGN_UP_LIMIT = env.whole("SIGN_UP_LIMIT", 10)
UNREDEEMED_TOKEN_LIMIT = env.whole("UNREDEEMED_TOKEN_LIMIT", 20)
SCORE_TOKEN_TTL_SECONDS = env.whole("SCORE_TOKEN_TTL_SECONDS", 60, least=1)
LIVE_INTERVAL_MS = env.whole("LIVE_INTERVAL_MS", 100, least=1)
SOCKETS_PER_PLAYER = env.whole("SOCKETS_PER_PLAYER", 200)
SOCKETS_PER_ADDRESS = env.whole("SOCKETS_PER_ADDRESS", 5000)
SOCKETS_PER_PROCESS = env.whole("SOCKETS_PER_PROCESS", 10000)
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
WEEK_STARTS_ON = _WEEKDAYS.index(env.one_of("WEEK_STARTS_ON", "monday", _WEEKDAYS))  # as date.weekday() counts
MAX_BODY_BYTES = 16 * 1024

# --- Who may talk to us -----------------------------------------------------------------------------------------------
ALLOWED_HOSTS = env.words("ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]")
CSRF_TRUSTED_ORIGINS = env.words("CSRF_TRUSTED_ORIGINS")
if not EMBEDDED_POSTGRES:
    _keys = {f"SCORE_TOKEN_KEYS ({kid})": secret for kid, secret in SCORE_TOKEN_KEYS.items()}
    _secrets = {"SECRET_KEY": SECRET_KEY, "JWT_SIGNING_KEY": JWT_SIGNING_KEY, **_keys}
    env.refuse_unsafe(_secrets, debug=DEBUG, hosts=ALLOWED_HOSTS)
TRUSTED_PROXY_HOPS = env.whole("TRUSTED_PROXY_HOPS", 0)
HTTPS = env.switch("HTTPS")
SECURE_SSL_REDIRECT = False  # the gateway's work; this process never sees plain HTTP where HTTPS is on
SILENCED_SYSTEM_CHECKS = ["security.W008"]  # asks for that redirect
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = HTTPS
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
if HTTPS:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = True
SESSION_ENGINE = "scoreboard_project.sessions"
SECURE_REFERRER_POLICY = "same-origin"
AVATAR_HOSTS = env.hosts("AVATAR_HOSTS")
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:", *env.image_sources(AVATAR_HOSTS)],
        "font-src": [SELF],
        "connect-src": [SELF],
        "form-action": [SELF],
        "base-uri": [NONE],
        "frame-ancestors": [NONE],
    }
}
EMBED_FRAME_ANCESTORS = env.frame_ancestors("EMBED_FRAME_ANCESTORS", "self")
DATA_UPLOAD_MAX_MEMORY_SIZE = 256 * 1024  # admin forms; the API takes MAX_BODY_BYTES

# --- Alerts -----------------------------------------------------------------------------------------------------------
ALERT_WEBHOOK_URL = env.http_url("ALERT_WEBHOOK_URL")
ALERT_WEBHOOK_KEY = env.webhook_key("ALERT_WEBHOOK_SECRET", env.text("ALERT_WEBHOOK_SECRET")) if ALERT_WEBHOOK_URL else b""
ALERT_EMAIL_TO = env.words("ALERT_EMAIL_TO")
EMAIL_HOST = env.text("EMAIL_HOST", "" if not ALERT_EMAIL_TO else None)
EMAIL_PORT = env.whole("EMAIL_PORT", 587, least=1)
EMAIL_HOST_USER = env.text("EMAIL_HOST_USER", "")
EMAIL_HOST_PASSWORD = env.text("EMAIL_HOST_PASSWORD", "")
EMAIL_USE_TLS = env.switch("EMAIL_USE_TLS", True)
EMAIL_TIMEOUT = 5  # seconds
DEFAULT_FROM_EMAIL = env.text("DEFAULT_FROM_EMAIL", "scoreboard@localhost")

# --- Django -----------------------------------------------------------------------------------------------------------
INSTALLED_APPS = [
    *(["daphne"] if DEBUG else []),  # its runserver; no production process should carry Twisted
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.humanize",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "csp",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "channels",
    "scoreboard_project",
    "leaderboard",
    "actions",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "scoreboard_project.urls"
ASGI_APPLICATION = "scoreboard_project.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "scoreboard_project.pages.site",
            ]
        },
    }
]
AUTH_USER_MODEL = "leaderboard.Player"
AUTHENTICATION_BACKENDS = ["scoreboard_project.sign_in.GatedBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
] + [{"NAME": "scoreboard_project.sign_in.LongestPassword"}]
CSRF_FAILURE_VIEW = "scoreboard_project.pages.forbidden"
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = LOGOUT_REDIRECT_URL = "/"
LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English"), ("de", "Deutsch"), ("es", "Español"), ("ar", "العربية")]  # each in its own words
LOCALE_PATHS = [BASE_DIR / "scoreboard_project" / "locale"]
FORMAT_MODULE_PATH = "scoreboard_project.formats"  # numbers as the scripts write them, so that taking over changes nothing
LANGUAGE_COOKIE_AGE = 31_536_000
LANGUAGE_COOKIE_HTTPONLY, LANGUAGE_COOKIE_SECURE, LANGUAGE_COOKIE_SAMESITE = True, HTTPS, "Lax"
TIME_ZONE = "UTC"
USE_I18N = USE_TZ = True

STATIC_URL = "/static/"
STATIC_ROOT = Path(env.text("STATIC_ROOT", str(DATA_DIR / "static")))
STATICFILES_DIRS = [BASE_DIR / "static"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "scoreboard_project.static_files.StaticFilesStorage"},
}

# --- REST -------------------------------------------------------------------------------------------------------------
REST_FRAMEWORK = {
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],  # never the browsable API
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_AUTHENTICATION_CLASSES": [],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "UNAUTHENTICATED_USER": None,
    "EXCEPTION_HANDLER": "scoreboard_project.api.page_answer_to",
}
SIMPLE_JWT = {
    "SIGNING_KEY": JWT_SIGNING_KEY,
    "ACCESS_TOKEN_LIFETIME": timedelta(minutes=15),
    "REFRESH_TOKEN_LIFETIME": timedelta(days=1),
    "AUDIENCE": "scoreboard",
    "ISSUER": "scoreboard",
    "USER_ID_CLAIM": "sub",
    "UPDATE_LAST_LOGIN": False,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Live scoreboard",
    "DESCRIPTION": "Complete an action, get a score token, redeem it, and watch the board move.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    # Unset, the page sends the schema's address to a validator of Swagger UI's makers.
    "SWAGGER_UI_SETTINGS": {"deepLinking": True, "validatorUrl": None},
    "COMPONENT_SPLIT_REQUEST": True,
    "POSTPROCESSING_HOOKS": ["scoreboard_project.api.wrap_schema_in_envelope"],
}

# --- Logs -------------------------------------------------------------------------------------------------------------
LOG_LEVEL = env.one_of("LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR"))
LOG_FORMAT = env.one_of("LOG_FORMAT", "console" if sys.stderr.isatty() else "json", ("console", "json"))
LOGGING_CONFIG = None
logs.configure(level=LOG_LEVEL, form=LOG_FORMAT)

# prometheus-client reads this when it is first imported; several processes then share their counters through files.
if WEB_PROCESSES > 1:
    os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", str(DATA_DIR / "metrics"))
    Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).mkdir(parents=True, exist_ok=True)
