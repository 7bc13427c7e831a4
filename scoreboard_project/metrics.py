"""The figures at /metrics. With several server processes they are summed through files (PROMETHEUS_MULTIPROC_DIR)."""

from prometheus_client import Counter, Gauge, Histogram

requests = Counter("scoreboard_requests_total", "API answers", ["view", "status"])
request_seconds = Histogram(
    "scoreboard_request_seconds", "API answer time", ["view"], buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
)
refusals = Counter("scoreboard_refusals_total", "Refused API calls", ["code"])
completions = Counter("scoreboard_completions_total", "Completed actions", ["action_type"])
redemptions = Counter("scoreboard_redemptions_total", "Redemptions by outcome", ["outcome"])
points = Counter("scoreboard_points_total", "Points paid")
alerts = Counter("scoreboard_alerts_total", "Flags raised for staff", ["kind"])
alert_deliveries = Counter("scoreboard_alert_deliveries_total", "Tries to send an alert", ["channel", "outcome"])
sockets = Gauge("scoreboard_sockets", "Open live sockets", multiprocess_mode="livesum")
pictures = Counter("scoreboard_pictures_total", "Top-10 pictures sent out")
limits_without_redis = Counter("scoreboard_limits_without_redis_total", "Limits decided by a process alone, Redis being away")
board_missed = Counter("scoreboard_board_missed_total", "Commits that the board did not hear of at once", ["reason"])
stalled_sockets = Counter("scoreboard_stalled_sockets_total", "Sockets closed because they did not read")
sockets_refused = Counter("scoreboard_sockets_refused_total", "Sockets refused because there were too many", ["of"])
overload = Counter("scoreboard_overload_total", "API calls refused because too many were under way")
board_fallbacks = Counter("scoreboard_board_fallbacks_total", "Board reads answered by PostgreSQL", ["reason"])
board_drift = Gauge(
    "scoreboard_board_drift_players", "Players whose board entry was behind the ledger", multiprocess_mode="livemax"
)
