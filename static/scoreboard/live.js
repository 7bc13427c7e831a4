/**
 * A live top-10 feed that survives bad networks. It depends on nothing, so a game's own page can copy this one file.
 *
 * Every frame is a whole board, so a missed one needs no repair: the client keeps the newest and drops the rest.
 * Where the socket cannot be had it polls the REST answer, and says so, while it keeps trying the socket.
 *
 * @example
 * const live = new LiveScoreboard({socketUrl: '/api/v1/scores/live', pollUrl: '/api/v1/scores/leaderboard'});
 * live.addEventListener('leaderboard', ({detail}) => draw(detail.rows));
 * live.addEventListener('state', ({detail}) => showBadge(detail.state, detail.retryAt));
 * live.start();
 *
 * Events, each a CustomEvent:
 * - `leaderboard` {rows, changed, seq, timestamp, source, period, start, end}; `source` is 'initial', 'update' or 'poll', `seq` null for
 *   a poll; `period`, `start` and `end` are null on the board of all time (an address may ask for
 *   another: `?period=week`)
 * - `personal` {newScore, rank, pointsAwarded, previousScore}; the last two are null where it came from a poll
 * - `state` {state, retryAt, lagMs}; `state` is one of 'connecting', 'live', 'stale', 'reconnecting', 'polling',
 *   'trouble' (the server answers, with an error), 'offline', 'paused'; `retryAt` is a time in ms or null, `lagMs` the last
 *   ping's round trip or null
 *
 * @module live
 */

const SECOND = 1000;
const PING_EVERY = 10 * SECOND;
// A quiet board is asked a little earlier, so that the answer is here before the feed would count as stale.
const PING_AFTER_QUIET = 7 * SECOND;
const PONG_WITHIN = 5 * SECOND;
const STALE_AFTER = 10 * SECOND;
const OPEN_WITHIN = 6 * SECOND;
const CALM = 30 * SECOND;
const POLL_EVERY = 5 * SECOND;
const POLL_WITHIN = 4 * SECOND;
const POLL_AFTER_FAILURES = 3;
const CLOSE_WHEN_HIDDEN_FOR = 300 * SECOND;

const RESTARTING = 1012;
const BAD_TOKEN = 4401;
const TOO_MANY = 4429;

export class LiveScoreboard extends EventTarget {
  #socketUrl;
  #pollUrl;
  #seq;
  #token;
  #maxDelayMs;

  #socket = null;
  #attemptAt = 0;
  #openedAt = 0;
  #heardAt = 0;
  #pingAt = 0;
  #pingOpen = false;
  #trusted = false;
  #lagMs = null;

  #failures = 0;
  #olderInitials = 0;
  #retryAt = null;
  #retryTimer = 0;
  #polling = false;
  #pollTimer = 0;
  #pollWorks = false;
  #trouble = false;

  #ticker = 0;
  #hiddenTimer = 0;
  #listeners = null;
  #paused = false;
  #held = new Map();
  #published = '';

  /**
   * @param {object} options
   * @param {string} options.socketUrl address or path of the WebSocket
   * @param {?string} [options.pollUrl] REST address to fall back on
   * @param {number} [options.seq] sequence number of the board already shown
   * @param {?string} [options.token] access token, for pages that have no session cookie
   * @param {number} [options.maxDelayMs] the longest wait between two attempts
   */
  constructor({ socketUrl, pollUrl = null, seq = 0, token = null, maxDelayMs = 20 * SECOND }) {
    super();
    const url = new URL(socketUrl, globalThis.location?.href);
    url.protocol = url.protocol.replace('http', 'ws');
    this.#socketUrl = url.href;
    this.#pollUrl = pollUrl;
    this.#seq = seq;
    this.#token = token;
    this.#maxDelayMs = maxDelayMs;
  }

  /** What a reader should be told about the feed right now. */
  get state() {
    if (this.#paused) return 'paused';
    if (this.#trusted) return Date.now() - this.#heardAt > STALE_AFTER ? 'stale' : 'live';
    // Only a label: the device may wrongly believe it is offline, so attempts go on.
    if (navigator.onLine === false) return 'offline';
    if (this.#polling && this.#trouble) return 'trouble';
    if (this.#polling && this.#pollWorks) return 'polling';
    return this.#failures ? 'reconnecting' : 'connecting';
  }

  /** When the server was last heard, in ms since 1970; 0 before. */
  get heardAt() {
    return this.#heardAt;
  }

  start() {
    if (this.#ticker) return;
    this.#listeners = new AbortController();
    const { signal } = this.#listeners;
    addEventListener('online', () => this.#soon(), { signal });
    addEventListener('offline', () => this.#doubt(), { signal });
    document.addEventListener('visibilitychange', () => this.#onVisibility(), { signal });
    this.#ticker = setInterval(() => this.#tick(), SECOND);
    this.#connect();
  }

  stop() {
    this.#listeners?.abort();
    clearInterval(this.#ticker);
    clearTimeout(this.#hiddenTimer);
    this.#ticker = 0;
    this.#release();
    this.#stopPolling();
    clearTimeout(this.#retryTimer);
  }

  /** Holds events back, of each kind only the newest; the connection stays. */
  pause() {
    this.#paused = true;
    this.#publish();
  }

  resume() {
    this.#paused = false;
    for (const [type, detail] of this.#held) this.dispatchEvent(new CustomEvent(type, { detail }));
    this.#held.clear();
    this.#publish();
  }

  retryNow() {
    if (!this.#socket) this.#connect();
  }

  /** Asks the REST answer once: the way to learn one's own rank when it left the top. */
  async refresh() {
    if (!this.#pollUrl) return;
    try {
      const headers = { Accept: 'application/json' };
      if (this.#token) headers.Authorization = `Bearer ${this.#token}`;
      const signal = AbortSignal.timeout(POLL_WITHIN);
      const answer = await fetch(this.#pollUrl, { headers, signal, cache: 'no-store' });
      this.#trouble = answer.status >= 500;
      this.#pollWorks = answer.ok;
      if (answer.ok) this.#onPolled((await answer.json()).data);
    } catch {
      this.#pollWorks = this.#trouble = false;
    }
    this.#publish();
  }

  #connect() {
    clearTimeout(this.#retryTimer);
    this.#retryAt = null;
    const socket = new WebSocket(this.#socketUrl);
    this.#socket = socket;
    this.#attemptAt = Date.now();
    this.#openedAt = 0;
    socket.onopen = () => this.#onOpen();
    socket.onmessage = (event) => this.#onMessage(event.data);
    socket.onclose = (event) => this.#lost(event.code);
    this.#publish();
  }

  #onOpen() {
    this.#openedAt = Date.now();
    this.#heardAt = this.#openedAt;
    if (this.#token) this.#send({ action: 'authenticate', token: this.#token });
    this.#ping();
  }

  #send(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  #ping() {
    this.#pingAt = Date.now();
    this.#pingOpen = true;
    this.#send({ action: 'ping' });
  }

  #onMessage(text) {
    let frame;
    try {
      frame = JSON.parse(text);
    } catch {
      return;
    }
    this.#heardAt = Date.now();
    this.#trusted = true;
    this.#stopPolling();
    if (frame.event === 'leaderboard:initial') this.#onBoard(frame, 'initial');
    else if (frame.event === 'leaderboard:update') this.#onBoard(frame, 'update');
    else if (frame.event === 'score:personal') this.#emit('personal', frame.data);
    else if (frame.event === 'pong' && this.#pingOpen) {
      this.#pingOpen = false;
      this.#lagMs = this.#heardAt - this.#pingAt;
    }
    this.#publish();
  }

  #onBoard({ data, timestamp }, source) {
    const { leaderboard: rows, changedPositions: changed = [], seq, period = null, start = null, end = null } = data;
    if (source === 'initial') {
      if (seq < this.#seq && !this.#restarted()) return;
    } else if (seq <= this.#seq) {
      return;
    }
    this.#olderInitials = 0;
    this.#seq = seq;
    this.#emit('leaderboard', { rows, changed, seq, timestamp, source, period, start, end });
  }

  /**
   * An older first board comes from a server process that lags a moment, or from a count that began anew.
   * Asking once more tells the two apart; without this, a restarted count would leave the page still for ever.
   */
  #restarted() {
    this.#olderInitials += 1;
    if (this.#olderInitials > 1) return true;
    setTimeout(() => this.#send({ action: 'subscribe', channel: 'leaderboard' }), 3 * SECOND);
    return false;
  }

  #onPolled(data) {
    const { leaderboard: rows, currentUser: me, lastUpdated: timestamp, period = null, start = null, end = null } = data;
    // Beside a live socket the answer may be older than the board shown, so only one's own rank is taken from it.
    if (!this.#trusted) this.#emit('leaderboard', { rows, changed: [], seq: null, timestamp, source: 'poll', period, start, end });
    if (me) this.#emit('personal', { newScore: me.score, rank: me.rank, pointsAwarded: null, previousScore: null });
  }

  /** Lets go of the socket without waiting for a closing handshake that a dead network never finishes. */
  #release() {
    const socket = this.#socket;
    this.#socket = null;
    this.#trusted = false;
    this.#pingOpen = false;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  }

  #lost(code) {
    const calm = this.#openedAt && Date.now() - this.#openedAt > CALM;
    this.#release();
    if (code === BAD_TOKEN) this.#token = null;
    this.#failures = calm ? 1 : this.#failures + 1;
    const delay = this.#delay(code);
    this.#connectIn(delay);
    if (this.#failures >= POLL_AFTER_FAILURES || delay > PING_EVERY) this.#startPolling();
  }

  #delay(code) {
    if (code === TOO_MANY) return 60 * SECOND;
    if (code === RESTARTING) return Math.random() * 2 * SECOND;
    const shortest = 300;
    const longest = Math.min(this.#maxDelayMs, 500 * 2 ** this.#failures);
    return shortest + Math.random() * (longest - shortest);
  }

  #connectIn(delay) {
    clearTimeout(this.#retryTimer);
    this.#retryAt = Date.now() + delay;
    this.#retryTimer = setTimeout(() => this.retryNow(), delay);
    this.#publish();
  }

  #soon() {
    if (this.#socket) this.#ping();
    else this.#connectIn(Math.random() * SECOND);
  }

  #doubt() {
    this.#trusted = false;
    this.#ping();
    this.#publish();
  }

  #onVisibility() {
    clearTimeout(this.#hiddenTimer);
    if (!document.hidden) return this.#soon();
    this.#hiddenTimer = setTimeout(() => {
      clearTimeout(this.#retryTimer);
      this.#stopPolling();
      this.#release();
    }, CLOSE_WHEN_HIDDEN_FOR);
  }

  #tick() {
    const now = Date.now();
    if (this.#socket && !this.#openedAt && now - this.#attemptAt > OPEN_WITHIN) this.#lost();
    else if (this.#socket && this.#openedAt) this.#watch(now);
    this.#publish();
  }

  #watch(now) {
    const unanswered = this.#pingOpen && now - this.#pingAt > PONG_WITHIN;
    if (unanswered && this.#heardAt < this.#pingAt) return this.#lost();
    const due = now - this.#pingAt >= PING_EVERY || now - this.#heardAt >= PING_AFTER_QUIET;
    if (unanswered || (due && !this.#pingOpen)) this.#ping();
  }

  #startPolling() {
    if (this.#polling || !this.#pollUrl) return;
    this.#polling = true;
    const again = async () => {
      await this.refresh();
      if (this.#polling) this.#pollTimer = setTimeout(again, POLL_EVERY * (0.8 + Math.random() * 0.4));
    };
    again();
  }

  #stopPolling() {
    this.#polling = false;
    clearTimeout(this.#pollTimer);
  }

  #emit(type, detail) {
    if (this.#paused) this.#held.set(type, detail);
    else this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  #publish() {
    const detail = { state: this.state, retryAt: this.#retryAt, lagMs: this.#lagMs };
    const key = Object.values(detail).join();
    if (key === this.#published) return;
    this.#published = key;
    this.dispatchEvent(new CustomEvent('state', { detail }));
  }
}
