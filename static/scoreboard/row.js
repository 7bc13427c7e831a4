/**
 * One row: who it is, the score that counts up, the change of rank, the sparkline.
 *
 * @module row
 */

const MOVE_LASTS = 360;
const FLASH_LASTS = 700;
const CHIP_LASTS = 1500;
const CHANGE_LASTS = 30_000;
const COUNT_LASTS = 400;
const MINUTE = 60_000;
const TREND_HEIGHT = 16;
const HUES = 8;
const SVG = 'http://www.w3.org/2000/svg';

const part = (element, name) => element.querySelector(`[data-part="${name}"]`);

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A number that is the same for a player on every screen: FNV-1a, then mixed, since ids may differ in one digit only. */
function hash(text) {
  let sum = 0x811c9dc5;
  for (const letter of text) sum = Math.imul(sum ^ letter.codePointAt(0), 0x01000193) >>> 0;
  sum = Math.imul(sum ^ (sum >>> 16), 0x85ebca6b);
  return (sum ^ (sum >>> 13)) >>> 0;
}

/** A 5 by 5 mirrored pattern: nothing to fetch, and still not ten times the same grey circle. */
function identicon(seed) {
  const bits = hash(seed);
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('viewBox', '-1 -1 7 7');
  for (let cell = 0; cell < 15; cell += 1) {
    if (!((bits >> cell) & 1)) continue;
    const [x, y] = [cell % 3, Math.floor(cell / 3)];
    for (const column of new Set([x, 4 - x])) {
      const square = document.createElementNS(SVG, 'rect');
      Object.entries({ x: column, y, width: 1.03, height: 1.03 }).forEach(([key, value]) => square.setAttribute(key, value));
      svg.append(square);
    }
  }
  return { svg, hue: (bits >>> 16) % HUES };
}

function drawAvatar(frame, userId, url) {
  const { svg, hue } = identicon(userId);
  frame.dataset.hue = hue;
  if (!url) return frame.replaceChildren(svg);
  const picture = new Image();
  picture.alt = '';
  picture.referrerPolicy = 'no-referrer';
  picture.onerror = () => picture.replaceWith(svg);
  picture.src = url;
  frame.replaceChildren(picture);
}

const calmly = matchMedia('(prefers-reduced-motion: reduce)');

/**
 * Rolls a number up to its new value. The text in the document is the true score at once, for readers, copies and scripts;
 * what rolls is painted over it from an attribute, and says no more than 400 ms of the past.
 */
class Digits {
  #shown;
  #frame = 0;

  constructor(element, value, number) {
    this.element = element;
    this.number = number;
    this.#shown = value;
  }

  show(value, loud) {
    write(this.element, this.number(value));
    cancelAnimationFrame(this.#frame);
    if (!loud || calmly.matches || value === this.#shown) return this.#end(value);
    const [from, began] = [this.#shown, performance.now()];
    const roll = (now) => {
      const past = Math.min(1, Math.max(0, now - began) / COUNT_LASTS);
      if (past === 1) return this.#end(value);
      this.#shown = Math.round(value - (value - from) * (1 - past) ** 3);
      this.element.dataset.rolling = this.number(this.#shown);
      this.#frame = requestAnimationFrame(roll);
    };
    roll(began);
  }

  #end(value) {
    this.#shown = value;
    delete this.element.dataset.rolling;
  }
}

/** What a player earned in each of the last 60 minutes: from the server at first, then from what this page sees. */
export class Trend {
  #minute = Math.floor(Date.now() / MINUTE);

  constructor(minutes) {
    this.minutes = minutes?.length ? [...minutes] : new Array(60).fill(0);
  }

  add(points) {
    this.#forget();
    this.minutes[59] += points;
  }

  #forget() {
    const now = Math.floor(Date.now() / MINUTE);
    for (; this.#minute < now; this.#minute += 1) this.minutes.push(this.minutes.shift() * 0);
  }

  get total() {
    this.#forget();
    return this.minutes.reduce((sum, points) => sum + points, 0);
  }

  /** Corners of the line of sums; all rows share `most`, so that a steeper line means more points. */
  points(most) {
    let sum = 0;
    const height = (points) => (TREND_HEIGHT - 1 - (Math.max(0, points) / most) * (TREND_HEIGHT - 2)).toFixed(1);
    return this.minutes.map((points, minute) => `${minute + 0.5},${height((sum += points))}`).join(' ');
  }
}

export class Row {
  #timers = {};
  #ranks = [];
  #gained = 0;

  constructor(element, entry, tools) {
    this.element = element;
    this.tools = tools;
    this.slot = -1;
    this.score = entry.score;
    this.element.dataset.userId = entry.userId;
    this.element.classList.toggle('is-you', entry.userId === tools.userId);
    part(element, 'you').hidden = entry.userId !== tools.userId;
    this.digits = new Digits(part(element, 'score'), entry.score, tools.number);
    this.#paintWho(entry);
  }

  #paintWho({ userId, username, avatarUrl }) {
    const key = `${username} ${avatarUrl ?? ''}`;
    if (key === this.who) return;
    this.who = key;
    write(part(this.element, 'name'), username);
    const link = part(this.element, 'link');
    link.href = `/players/${encodeURIComponent(username)}/`;
    if (document.documentElement.dataset.view === 'embed') link.target = '_blank';
    drawAvatar(part(this.element, 'avatar'), userId, avatarUrl);
  }

  paintScore(entry, loud) {
    this.#paintWho(entry);
    const gained = entry.score - this.score;
    this.score = entry.score;
    this.digits.show(entry.score, loud);
    if (gained === 0 || !loud) return;
    this.#for('flash', FLASH_LASTS);
    if (gained > 0) this.#showChip(gained);
  }

  #showChip(gained) {
    this.#gained += gained;
    write(part(this.element, 'gain'), `+${this.tools.number(this.#gained)}`);
    this.#for('gained', CHIP_LASTS, () => (this.#gained = 0));
  }

  /** Wears a class for a while; asked again meanwhile, the time starts anew and nothing blinks. */
  #for(name, lasts, after = () => {}) {
    clearTimeout(this.#timers[name]);
    this.element.classList.add(name);
    this.#timers[name] = setTimeout(() => {
      this.element.classList.remove(name);
      after();
    }, lasts);
  }

  place(slot, rank, entered) {
    this.element.classList.toggle('rising', slot < this.slot);
    this.slot = slot;
    this.element.dataset.rank = rank;
    write(part(this.element, 'rank'), this.tools.number(rank));
    if (this.#ranks.at(-1)?.rank !== rank) this.#remember(rank, entered);
  }

  #remember(rank, entered) {
    const from = entered ? null : this.#ranks.at(-1)?.rank ?? rank;
    this.#ranks.push({ rank, from, at: Date.now() });
    this.paintChange();
  }

  /** Compares with the rank of half a minute ago, so that a row that went up and down again says nothing. */
  #change() {
    const { rank } = this.#ranks.at(-1);
    const recent = this.#ranks.filter(({ at }) => Date.now() - at < CHANGE_LASTS);
    this.#ranks = recent.length ? recent : [{ rank, from: rank, at: 0 }];
    const { from } = this.#ranks[0];
    if (from === null) return { kind: 'new', by: 0 };
    return { kind: ['same', 'up', 'down'].at(Math.sign(from - rank)), by: Math.abs(from - rank) };
  }

  paintChange() {
    const { kind, by } = this.#change();
    const { strings, number } = this.tools;
    const count = number(by);
    const shown = { new: strings.changeNew, up: `▲${count}`, down: `▼${count}`, same: '' }[kind];
    const said = { up: strings.changeUp, down: strings.changeDown }[kind] ?? '';
    part(this.element, 'change').dataset.kind = kind;
    write(part(this.element, 'change-mark'), shown);
    part(this.element, 'change-mark').ariaHidden = said ? 'true' : null;
    write(part(this.element, 'change-words'), said.replace('{count}', count));
  }

  paintTrend(trend, most) {
    const points = trend.points(most);
    if (points === this.trend) return;
    this.trend = points;
    part(this.element, 'line').setAttribute('points', points);
    part(this.element, 'area').setAttribute('points', `0.5,${TREND_HEIGHT} ${points} 59.5,${TREND_HEIGHT}`);
    part(this.element, 'line').ownerSVGElement.classList.toggle('flat', trend.total === 0);
    write(part(this.element, 'earned'), this.tools.signed(trend.total));
  }

  leave() {
    for (const timer of Object.values(this.#timers)) clearTimeout(timer);
    this.element.ariaHidden = 'true';
    this.element.classList.add('leaving');
    this.element.dataset.rank = 'none';
    setTimeout(() => this.element.remove(), MOVE_LASTS);
  }
}
