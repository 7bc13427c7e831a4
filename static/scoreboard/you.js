/**
 * The signed-in player's own line, and who stands around them.
 *
 * In the top ten all of it follows from the live board. Further down nobody sends what others do, so it is asked for: after
 * one's own points, on falling out of the ten, and each half minute while the page is seen.
 *
 * @module you
 */

import { config, fill, language, live, number, part, strings, write, yourRank } from './board.js';

const ASK_EVERY = 30_000;
const ASK_AFTER = 700;
const ASK_WITHIN = 5000;
const SPAN = 2;

const percents = new Intl.NumberFormat(language, { style: 'percent', numberingSystem: 'latn' });

let inTop = false;
let timer = 0;

/* What is shown */

function showStanding({ rank, score, toNext, percentile }) {
  const on = rank !== null && score !== null;
  yourRank(on ? rank : null);
  part('me-ranked').hidden = part('me-scored').hidden = part('me-next').hidden = !on;
  part('me-none').hidden = on;
  if (!on) return;
  write(part('me-rank'), `#${number(rank)}`);
  write(part('me-score'), number(score));
  write(part('me-next'), [gap(rank, toNext), place(rank, percentile)].filter(Boolean).join(' · '));
}

const gap = (rank, toNext) =>
  toNext === null ? '' : fill(rank === 1 ? strings.lead : strings.toNext, { points: number(toNext), rank: number(rank - 1) });

/** Where one stands among all: a rank of many digits says little by itself. */
function place(rank, percentile) {
  if (rank <= 10 || percentile === null) return '';
  if (percentile >= 50) return fill(strings.topPercent, { percent: percents.format(Math.ceil(100 - percentile) / 100) });
  return fill(strings.aheadOf, { percent: percents.format(Math.floor(percentile) / 100) });
}

function showNear(rows) {
  const list = part('near');
  const template = document.getElementById('near-template').content.firstElementChild;
  const items = rows.map(({ rank, userId, username, score }) => {
    const item = template.cloneNode(true);
    item.classList.toggle('is-you', userId === config.userId);
    item.querySelector('[data-part="near-rank"]').textContent = `#${number(rank)}`;
    item.querySelector('[data-part="near-name"]').textContent = username;
    item.querySelector('[data-part="near-score"]').textContent = number(score);
    return item;
  });
  list.replaceChildren(...items);
  part('near-none').hidden = items.length > 0;
}

/* Where it comes from */

function fromTop(rows) {
  const at = rows.findIndex(({ userId }) => userId === config.userId);
  if (at < 0) return false;
  const { rank, score } = rows[at];
  const other = rows[at === 0 ? 1 : at - 1];
  // To pass somebody takes a point more than they have; equal scores rank by who was first.
  const toNext = other ? Math.abs(other.score - score) + (at === 0 ? 0 : 1) : null;
  showStanding({ rank, score, toNext, percentile: null });
  showNear(rows.slice(Math.max(0, at - SPAN), at + SPAN + 1));
  return true;
}

async function ask() {
  clearTimeout(timer);
  timer = setTimeout(ask, ASK_EVERY * (0.8 + Math.random() * 0.4));
  if (inTop || document.hidden || live.state === 'paused') return;
  try {
    const answer = await fetch(config.aroundPath, { cache: 'no-store', signal: AbortSignal.timeout(ASK_WITHIN) });
    if (answer.status === 401) clearTimeout(timer); // signed out elsewhere
    if (!answer.ok || inTop) return;
    const { data } = await answer.json();
    showStanding({ ...data, toNext: data.pointsToNext });
    showNear(data.leaderboard);
  } catch {
    // The badge tells of the connection; what is shown here was true a moment ago.
  }
}

function askSoon() {
  clearTimeout(timer);
  timer = setTimeout(ask, ASK_AFTER);
}

function onLeaderboard({ detail }) {
  if (detail.period !== config.period) return;
  const was = inTop;
  inTop = fromTop(detail.rows);
  if (was && !inTop) askSoon();
}

function onPersonal({ detail }) {
  if (inTop) return;
  // It speaks of the score of all time, so another period's page only learns that there is something to ask.
  if (!config.period) showStanding({ rank: detail.rank, score: detail.newScore, toNext: null, percentile: null });
  askSoon();
}

inTop = fromTop(config.leaderboard);
if (!inTop) showStanding({ ...config.me, toNext: config.me.pointsToNext });
live.addEventListener('leaderboard', onLeaderboard);
live.addEventListener('personal', onPersonal);
document.addEventListener('visibilitychange', () => document.hidden || askSoon());
timer = setTimeout(ask, ASK_EVERY);
