/**
 * The scoreboard page: joins the live feed to the rows, the badge, the last-update line and the "You" card.
 * What a person reads comes from the template, so that it can be translated there.
 *
 * @module board
 */

import { LiveScoreboard } from './live.js';
import { Rows } from './rows.js';

const SPEAK_EVERY = 15_000;
// A board that somebody watches must be back within five seconds of the server.
const LONGEST_RETRY = 4000;

const page = document.querySelector('[data-board]');
const part = (name) => page.querySelector(`[data-part="${name}"]`);
const config = JSON.parse(document.getElementById('live-config').textContent);
const strings = Object.fromEntries(
  [...document.getElementById('live-strings').content.children].map((item) => [item.dataset.key, item.textContent]),
);
const language = document.documentElement.lang || undefined;

// Latin digits and fixed groups: the same text as the server's, so that taking over changes nothing on the page.
const numbers = new Intl.NumberFormat(language, { numberingSystem: 'latn', useGrouping: 'always' });
const number = (value) => numbers.format(value);
const clock = new Intl.DateTimeFormat(language, { timeStyle: 'medium' });
const ago = new Intl.RelativeTimeFormat(language, { numeric: 'auto' });

const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, key) => values[key]);

function write(element, text) {
  if (element && element.textContent !== text) element.textContent = text;
}

const rows = new Rows(part('rows'), document.getElementById('row-template'), {
  number,
  strings,
  userId: config.userId,
});
const live = new LiveScoreboard({
  socketUrl: config.socketPath,
  pollUrl: config.pollPath,
  seq: config.seq,
  maxDelayMs: LONGEST_RETRY,
});

let shown = [];
let shownOnce = false;
let feed = { state: 'connecting', retryAt: null, lagMs: null };

/* The board */

const fingerprint = (entries) => JSON.stringify(entries.map(({ rank, userId, score }) => [rank, userId, score]));

function showBoard(entries, calm) {
  shown = entries;
  part('empty').hidden = entries.length > 0;
  part('table').hidden = entries.length === 0;
  rows.show(entries, calm);
}

function onLeaderboard({ detail }) {
  const changed = fingerprint(detail.rows) !== fingerprint(shown);
  const wasIn = shown.some(({ userId }) => userId === config.userId);
  showBoard(detail.rows, detail.source === 'initial');
  if (changed && detail.timestamp) setUpdated(detail.timestamp);
  const mine = detail.rows.find(({ userId }) => userId === config.userId);
  if (mine) showMe(mine.rank, mine.score);
  // Only the server knows how far one has fallen.
  else if (wasIn) live.refresh();
  consider();
}

/* Your own line */

let me = null;

function showMe(rank, score) {
  me = { rank, score };
  const ranked = rank !== null && score !== null;
  if (!part('me-rank')) return;
  part('me-ranked').hidden = !ranked;
  part('me-none').hidden = ranked;
  if (!ranked) return;
  write(part('me-rank'), `#${number(rank)}`);
  write(part('me-score'), number(score));
}

function onPersonal({ detail }) {
  showMe(detail.rank, detail.newScore);
  consider();
}

/* When it last changed */

function setUpdated(timestamp) {
  part('updated').dateTime = timestamp;
  part('updated-line').hidden = false;
  part('updated-none').hidden = true;
  tellTime();
}

function tellTime() {
  const at = new Date(part('updated').dateTime);
  if (Number.isNaN(at.getTime())) return;
  const seconds = Math.max(0, Math.round((Date.now() - at) / 1000));
  const unit = [['day', 86_400], ['hour', 3600], ['minute', 60], ['second', 1]].find(([, size]) => seconds >= size);
  const [name, size] = unit ?? ['second', 1];
  // A ticking "seconds ago" is an update too, and a reader who paused asked for none.
  const since = live.state === 'paused' ? '' : ` (${ago.format(-Math.floor(seconds / size), name)})`;
  write(part('updated'), clock.format(at) + since);
}

/* The badge */

function showState({ detail }) {
  feed = detail;
  page.dataset.state = detail.state;
  write(part('state'), strings[detail.state]);
  part('badge').title = detail.lagMs === null ? '' : fill(strings.lag, { milliseconds: number(detail.lagMs) });
  part('retry').hidden = !['reconnecting', 'polling', 'offline'].includes(detail.state);
  countDown();
}

/** Beside the spoken text, not in it: a screen reader should hear that it reconnects, not every second of it. */
function countDown() {
  const waits = ['reconnecting', 'offline'].includes(feed.state) && feed.retryAt;
  const seconds = Math.ceil((feed.retryAt - Date.now()) / 1000);
  write(part('countdown'), waits && seconds > 0 ? fill(strings.retryIn, { seconds: number(seconds) }) : '');
}

/* One sentence now and then for those who listen */

let told = null;
let toldAt = 0;
let speakTimer = 0;

const news = () => ({ leader: shown[0]?.userId, rank: me?.rank ?? null });

function consider() {
  const { leader, rank } = news();
  if (leader === told.leader && rank === told.rank) return;
  clearTimeout(speakTimer);
  speakTimer = setTimeout(speak, Math.max(0, toldAt + SPEAK_EVERY - Date.now()));
}

function speak() {
  const { leader, rank } = news();
  if (leader === told.leader && rank === told.rank) return;
  told = { leader, rank };
  toldAt = Date.now();
  const words = [];
  if (shown[0]) words.push(fill(strings.leads, { name: shown[0].username, score: number(shown[0].score) }));
  if (rank !== null) words.push(fill(strings.yourRank, { rank: number(rank) }));
  write(part('announcer'), words.join(' '));
}

/* Start */

function togglePause() {
  if (live.state === 'paused') live.resume();
  else live.pause();
  const paused = live.state === 'paused';
  write(part('pause'), paused ? strings.resume : strings.pause);
  tellTime();
}

function start() {
  const { rank, score } = part('me')?.dataset ?? {};
  if (rank) me = { rank: Number(rank), score: Number(score) };
  showBoard(config.leaderboard, true);
  told = news();
  tellTime();
  part('refresh').hidden = true;
  part('pause').hidden = false;
  part('pause').addEventListener('click', togglePause);
  part('retry').addEventListener('click', () => live.retryNow());
  live.addEventListener('leaderboard', onLeaderboard);
  live.addEventListener('personal', onPersonal);
  live.addEventListener('state', showState);
  live.start();
  setInterval(() => {
    tellTime();
    countDown();
  }, 1000);
}

start();
