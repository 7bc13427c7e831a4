/**
 * The scoreboard page: joins the live feed to the rows, the badge and the line that says how fresh it all is.
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
export const part = (name) => page.querySelector(`[data-part="${name}"]`);
export const config = JSON.parse(document.getElementById('live-config').textContent);
export const strings = Object.fromEntries(
  [...document.getElementById('live-strings').content.children].map((item) => [item.dataset.key, item.textContent]),
);
export const language = document.documentElement.lang || undefined;

// Latin digits and fixed groups: the same text as the server's, so that taking over changes nothing on the page.
const LIKE_THE_SERVER = { numberingSystem: 'latn', useGrouping: 'always' };
const numbers = new Intl.NumberFormat(language, LIKE_THE_SERVER);
const signedNumbers = new Intl.NumberFormat(language, { ...LIKE_THE_SERVER, signDisplay: 'always' });
export const number = (value) => numbers.format(value);
const clock = new Intl.DateTimeFormat(language, { timeStyle: 'medium', numberingSystem: 'latn' });
const until = new Intl.RelativeTimeFormat(language, { numberingSystem: 'latn' });
const ago = new Intl.RelativeTimeFormat(language, { numeric: 'auto', style: 'narrow', numberingSystem: 'latn' });

export const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, key) => values[key]);

export function write(element, text) {
  if (element && element.textContent !== text) element.textContent = text;
}

const rows = new Rows(part('rows'), document.getElementById('row-template'), {
  number,
  signed: (value) => signedNumbers.format(value),
  strings,
  userId: config.userId,
  earned: config.earned,
});
export const live = new LiveScoreboard({
  socketUrl: config.socketPath,
  pollUrl: config.pollPath,
  seq: config.seq,
  maxDelayMs: LONGEST_RETRY,
});

let shown = [];
let { end } = config; // of the period, null for the board of all time
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
  if (detail.period !== config.period) return;
  const entries = detail.rows.slice(0, config.limit);
  const changed = fingerprint(entries) !== fingerprint(shown);
  const anotherPeriod = Boolean(detail.end) && detail.end !== end;
  end = detail.end;
  showBoard(entries, detail.source === 'initial' || anotherPeriod);
  if (changed && detail.timestamp) setUpdated(detail.timestamp);
  consider();
}

/* When it last changed, and when it begins anew */

function setUpdated(timestamp) {
  part('updated').dateTime = timestamp;
  part('updated-line').hidden = false;
  part('updated-none').hidden = true;
  tellTime();
}

const UNITS = [['day', 86_400], ['hour', 3600], ['minute', 60], ['second', 1]];

function tellReset() {
  const seconds = Math.max(0, (new Date(end) - Date.now()) / 1000);
  const [name, size] = UNITS.find(([, unit]) => seconds >= 2 * unit) ?? UNITS.at(-1);
  if (end) write(part('resets'), fill(strings.resets, { when: until.format(Math.floor(seconds / size), name) }));
}

function tellTime() {
  const at = new Date(part('updated').dateTime);
  if (Number.isNaN(at.getTime())) return;
  const seconds = Math.max(0, Math.round((Date.now() - at) / 1000));
  const [name, size] = UNITS.find(([, unit]) => seconds >= unit) ?? UNITS.at(-1);
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
  part('retry').hidden = !['reconnecting', 'polling', 'trouble', 'offline'].includes(detail.state);
  explain();
  consider();
}

/** What the badge's word means for the reader, and how long it still takes. */
function explain() {
  const quiet = Math.round((Date.now() - live.heardAt) / 1000);
  write(part('explained'), fill(strings[`${feed.state}Explained`] ?? '', { seconds: number(quiet) }));
  const waits = ['reconnecting', 'offline'].includes(feed.state) && feed.retryAt;
  const seconds = Math.ceil((feed.retryAt - Date.now()) / 1000);
  write(part('countdown'), waits && seconds > 0 ? fill(strings.retryIn, { seconds: number(seconds) }) : '');
}

/* One sentence now and then for those who listen: nothing else on the page speaks by itself. */

const QUIET_STATES = ['connecting', 'paused'];
let rank = null;
let state = 'live';
let told = null;
let toldAt = 0;
let speakTimer = 0;

const news = () => ({ leader: shown[0]?.userId, rank, state });
const isNews = () => JSON.stringify(news()) !== JSON.stringify(told);

/** Tells the page where its player stands. */
export function yourRank(now) {
  rank = now;
  if (told) consider();
}

function consider() {
  if (!QUIET_STATES.includes(feed.state)) state = feed.state;
  if (!isNews()) return;
  clearTimeout(speakTimer);
  speakTimer = setTimeout(speak, Math.max(0, toldAt + SPEAK_EVERY - Date.now()));
}

function speak() {
  if (!isNews()) return;
  const words = [];
  if (state !== told.state) words.push(`${strings[state]}.`);
  if (shown[0]) words.push(fill(strings.leads, { name: shown[0].username, score: number(shown[0].score) }));
  if (rank !== null) words.push(fill(strings.yourRank, { rank: number(rank) }));
  told = news();
  toldAt = Date.now();
  write(part('announcer'), words.join(' '));
}

/* Start */

function togglePause() {
  if (live.state === 'paused') live.resume();
  else live.pause();
  const paused = live.state === 'paused';
  write(part('pause'), paused ? strings.resume : strings.pause);
  part('pause').ariaLabel = paused ? strings.resumeUpdates : strings.pauseUpdates;
  tellTime();
}

async function copySnippet({ currentTarget }) {
  await navigator.clipboard.writeText(part('snippet').textContent);
  currentTarget.textContent = currentTarget.dataset.done;
}

function start() {
  showBoard(config.leaderboard, true);
  if (navigator.clipboard && part('copy')) part('copy').hidden = false;
  part('copy')?.addEventListener('click', copySnippet);
  if (!config.over) goLive();
}

function goLive() {
  told = news();
  tellReset();
  tellTime();
  part('refresh')?.setAttribute('hidden', '');
  part('pause').hidden = false;
  part('pause').addEventListener('click', togglePause);
  part('retry').addEventListener('click', () => live.retryNow());
  live.addEventListener('leaderboard', onLeaderboard);
  live.addEventListener('state', showState);
  live.start();
  setInterval(() => {
    tellTime();
    tellReset();
    explain();
  }, 1000);
}

start();
