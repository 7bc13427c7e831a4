/**
 * The ten rows. Each sits in a fixed slot and only its `transform` changes, so nothing on the page ever shifts;
 * the order in the document follows, for screen readers and for copying.
 *
 * @module rows
 */

const ORDER_EVERY = 400;
const MOVE_LASTS = 360;
const FLASH_LASTS = 700;
const CHIP_LASTS = 1500;
const CHANGE_LASTS = 30_000;
// More than this is a jump after a gap: nobody can follow it, so nothing should fly about.
const MOST_MOVES = 8;
const HUES = 8;
const SVG = 'http://www.w3.org/2000/svg';
const KEEPS_STATE = 'moveBefore' in Element.prototype;

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

class Row {
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
    this.#paintWho(entry);
  }

  #paintWho({ userId, username, avatarUrl }) {
    const key = `${username} ${avatarUrl ?? ''}`;
    if (key === this.who) return;
    this.who = key;
    write(part(this.element, 'name'), username);
    drawAvatar(part(this.element, 'avatar'), userId, avatarUrl);
  }

  paintScore(entry, loud) {
    this.#paintWho(entry);
    const gained = entry.score - this.score;
    this.score = entry.score;
    write(part(this.element, 'score'), this.tools.number(entry.score));
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
    const moved = slot !== this.slot;
    this.slot = slot;
    this.element.style.transform = `translateY(${slot * 100}%)`;
    this.element.dataset.rank = rank;
    write(part(this.element, 'rank'), this.tools.number(rank));
    if (this.#ranks.at(-1)?.rank !== rank) this.#remember(rank, entered);
    return moved;
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

  leave(slots) {
    for (const timer of Object.values(this.#timers)) clearTimeout(timer);
    this.element.ariaHidden = 'true';
    this.element.classList.add('leaving');
    this.element.style.transform = `translateY(${slots * 100}%)`;
    setTimeout(() => this.element.remove(), MOVE_LASTS);
  }
}

export class Rows {
  #body;
  #template;
  #tools;
  #rows = new Map();
  #newest = [];
  #orderedAt = 0;
  #orderTimer = 0;
  #first = true;

  /**
   * @param {HTMLTableSectionElement} body holds the rows that the server drew
   * @param {HTMLTemplateElement} template one empty row
   * @param {{number: function(number): string, strings: object, userId: ?string}} tools
   */
  constructor(body, template, tools) {
    this.#body = body;
    this.#template = template;
    this.#tools = tools;
    setInterval(() => this.#rows.forEach((row) => row.paintChange()), 2000);
  }

  /**
   * @param {Array<object>} entries the whole board, best first
   * @param {boolean} calm true where this is no change to watch: the first picture, or a jump after a gap
   */
  show(entries, calm) {
    this.#newest = entries;
    for (const entry of entries) this.#rows.get(entry.userId)?.paintScore(entry, !calm && !document.hidden);
    const wait = this.#orderedAt + ORDER_EVERY - Date.now();
    clearTimeout(this.#orderTimer);
    if (calm || wait <= 0) this.#order(calm);
    else this.#orderTimer = setTimeout(() => this.#order(false), wait);
  }

  #order(calm) {
    this.#orderedAt = Date.now();
    const entries = this.#newest;
    const staying = new Set(entries.map(({ userId }) => userId));
    for (const [userId, row] of this.#rows) {
      if (staying.has(userId)) continue;
      this.#rows.delete(userId);
      row.leave(entries.length);
    }
    const moves = entries.filter(({ userId }, slot) => this.#rows.get(userId)?.slot !== slot).length;
    const still = calm || this.#first || document.hidden || moves > MOST_MOVES;
    this.#body.classList.toggle('still', still);
    entries.forEach((entry, slot) => this.#place(entry, slot));
    this.#body.classList.add('slots');
    this.#first = false;
    setTimeout(() => this.#reorder(), KEEPS_STATE || still ? 0 : MOVE_LASTS);
  }

  #place(entry, slot) {
    const known = this.#rows.get(entry.userId);
    const row = known ?? this.#adopt(entry);
    if (!known) row.paintScore(entry, false);
    row.place(slot, entry.rank, !known && !this.#first);
  }

  #adopt(entry) {
    const drawn = this.#first && this.#body.querySelector(`[data-user-id="${CSS.escape(entry.userId)}"]`);
    const element = drawn || this.#template.content.firstElementChild.cloneNode(true);
    const row = new Row(element, entry, this.#tools);
    if (!drawn) this.#body.append(element);
    this.#rows.set(entry.userId, row);
    return row;
  }

  #reorder() {
    const order = [...this.#rows.values()].sort((a, b) => a.slot - b.slot).map(({ element }) => element);
    if (order.every((element, at) => element === this.#body.children[at])) return;
    if (KEEPS_STATE) return order.forEach((element, at) => this.#putAt(element, at));
    // A plain move takes focus away, so the others move around the row that holds it.
    const fixed = order.findIndex((element) => element.contains(document.activeElement));
    order.forEach((element, at) => {
      if (at !== fixed) this.#body.insertBefore(element, at < fixed ? order[fixed] : null);
    });
  }

  #putAt(element, at) {
    const there = this.#body.children[at];
    if (there !== element) this.#body.moveBefore(element, there);
  }
}
