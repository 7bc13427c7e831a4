/**
 * The ten rows. A row's place follows from its `data-rank` alone, by `transform` in the style sheet, so nothing on the page
 * ever shifts, podium or not; the order in the document follows, for screen readers and for copying.
 *
 * @module rows
 */

import { Row, Trend } from './row.js';

const ORDER_EVERY = 400;
const MOVE_LASTS = 360;
// More than this is a jump after a gap: nobody can follow it, so nothing should fly about.
const MOST_MOVES = 8;
// Below this, a few points would look like a mountain.
const LEAST_TREND = 50;
const KEEPS_STATE = 'moveBefore' in Element.prototype;

export class Rows {
  #body;
  #template;
  #tools;
  #rows = new Map();
  #trends = new Map();
  #newest = [];
  #orderedAt = 0;
  #orderTimer = 0;
  #first = true;

  /**
   * @param {HTMLTableSectionElement} body holds the rows that the server drew
   * @param {HTMLTemplateElement} template one empty row
   * @param {object} tools
   * @param {function(number): string} tools.number writes a number for the reader
   * @param {function(number): string} tools.signed the same with its sign
   * @param {object} tools.strings
   * @param {?string} tools.userId who looks
   * @param {Object<string, number[]>} tools.earned points of the last 60 minutes by player, as far as the server told
   */
  constructor(body, template, tools) {
    this.#body = body;
    this.#template = template;
    this.#tools = tools;
    setInterval(() => this.#paintSlowly(), 2000);
  }

  #paintSlowly() {
    const seen = this.#newest.map(({ userId }) => userId);
    const most = Math.max(LEAST_TREND, ...seen.map((userId) => this.#trends.get(userId).total));
    this.#rows.forEach((row, userId) => {
      row.paintChange();
      row.paintTrend(this.#trends.get(userId), most);
    });
    for (const [userId, { total }] of this.#trends) {
      if (!total && !seen.includes(userId) && !this.#rows.has(userId)) this.#trends.delete(userId);
    }
  }

  #learn({ userId, score }) {
    const known = this.#trends.get(userId);
    const { earned } = this.#tools;
    const trend = known ?? new Trend(earned[userId]);
    // Less than before is another period's board, or a correction: nobody earns less than nothing.
    if (known) trend.add(Math.max(0, score - trend.score));
    else delete earned[userId]; // true when the page was made, and never again
    trend.score = score;
    this.#trends.set(userId, trend);
  }

  /**
   * @param {Array<object>} entries the whole board, best first
   * @param {boolean} calm true where this is no change to watch: the first picture, or a jump after a gap
   */
  show(entries, calm) {
    this.#newest = entries;
    entries.forEach((entry) => this.#learn(entry));
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
      row.leave();
    }
    const moves = entries.filter(({ userId }, slot) => this.#rows.get(userId)?.slot !== slot).length;
    const still = calm || this.#first || document.hidden || moves > MOST_MOVES;
    this.#body.classList.toggle('still', still);
    entries.forEach((entry, slot) => this.#place(entry, slot));
    this.#first = false;
    this.#paintSlowly();
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
