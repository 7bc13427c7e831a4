/**
 * The play page: runs an action through the public API and shows each step, the token's life and every call.
 * Without this script the cards are plain forms, and the server does the same two steps.
 *
 * @module play
 */

import { LostAnswer, PlayerApi } from './api.js';

const CALLS_KEPT = 30;
const DOUBLE = /^[\w-]{8,}\.[\w-]+(\.[\w-]+)?$/;

const page = document.querySelector('[data-play]');
const find = (element, name) => element.querySelector(`[data-part="${name}"]`);
const config = JSON.parse(document.getElementById('play-config').textContent);
const strings = Object.fromEntries(
  [...document.getElementById('play-strings').content.children].map((item) => [item.dataset.key, item.textContent]),
);
const numbers = new Intl.NumberFormat(document.documentElement.lang || undefined, {
  numberingSystem: 'latn',
  useGrouping: 'always',
});
const number = (value) => numbers.format(value);
const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, key) => values[key]);

/** A refusal in the reader's language; the API itself speaks English. */
function said({ code, details }) {
  const text = strings[`said-${details?.reason}`] ?? strings[`said-${code}`] ?? '';
  const values = Object.entries(details ?? {}).map(([key, value]) => [key, typeof value === 'number' ? number(value) : value]);
  return fill(text, Object.fromEntries(values));
}

const api = new PlayerApi(config, page.querySelector('[name="csrfmiddlewaretoken"]')?.value ?? '');

/* What just happened */

/** Enough to recognise a token, too little to use it: people share screenshots of this panel. */
const shorten = (text) => (DOUBLE.test(text) ? `${text.slice(0, 8)}…${text.slice(-4)}` : text);

function showCall({ detail }) {
  const item = document.getElementById('call-template').content.firstElementChild.cloneNode(true);
  const status = find(item, 'status');
  status.textContent = detail.status ?? strings.lost;
  status.dataset.kind = detail.status === null || detail.status >= 500 ? 'bad' : detail.status >= 400 ? 'refused' : 'good';
  find(item, 'method').textContent = detail.method;
  find(item, 'path').textContent = detail.path;
  find(item, 'time').textContent = `${number(detail.milliseconds)} ms`;
  find(item, 'id').textContent = detail.requestId ?? '–';
  const shortened = (key, value) => (typeof value === 'string' ? shorten(value) : value);
  find(item, 'body').textContent = JSON.stringify(detail.body, shortened, 2);
  const list = find(page, 'journal');
  list.prepend(item);
  while (list.children.length > CALLS_KEPT) list.lastElementChild.remove();
}

/** The fields for a quiz's questions, and what was chosen in them: `{question id: place of the choice}`. */
class Questions {
  #attempt = null;

  constructor(place) {
    this.place = place;
  }

  get open() {
    return this.#attempt !== null;
  }

  /** What the completion brings: the server marks it. */
  get answers() {
    const chosen = [...this.place.querySelectorAll('input:checked')];
    const answers = Object.fromEntries(chosen.map((input) => [input.name.slice('answer-'.length), Number(input.value)]));
    return { attemptId: this.#attempt.attemptId, answers };
  }

  ask(attempt) {
    this.#attempt = attempt;
    this.place.replaceChildren(...attempt.questions.map((question) => this.#fields(question)));
    this.place.querySelector('input').focus();
  }

  clear() {
    this.#attempt = null;
    this.place.replaceChildren();
  }

  #fields({ id, text, choices }) {
    const fields = document.getElementById('question-template').content.firstElementChild.cloneNode(true);
    fields.firstElementChild.textContent = text;
    for (const [place, choice] of choices.entries()) {
      const label = document.getElementById('choice-template').content.firstElementChild.cloneNode(true);
      const [input, words] = label.children;
      input.name = `answer-${id}`;
      input.value = place;
      words.textContent = choice;
      fields.append(label);
    }
    return fields;
  }
}

class Card {
  #questions;
  #token = null;
  #spent = false;
  #inDoubt = false;
  #timer = 0;
  #waitTimer = 0;
  #busy = false;

  constructor(element) {
    this.element = element;
    this.button = element.querySelector('[type="submit"]');
    this.#questions = new Questions(find(element, 'questions'));
    if (element.dataset.verification === 'quiz') this.#ready();
    element.querySelector('form').addEventListener('submit', (event) => {
      event.preventDefault();
      this.#guard(() => this.#play());
    });
    find(element, 'again').addEventListener('click', ({ currentTarget }) => {
      if (currentTarget.ariaDisabled !== 'true') this.#guard(() => this.#redeem());
    });
  }

  /** `aria-disabled` and not `disabled`, which would throw the keyboard's focus off the button. */
  async #guard(work) {
    if (this.#busy || this.button.ariaDisabled === 'true') return;
    this.#setBusy(true);
    try {
      await work();
    } catch (problem) {
      this.#fail(problem);
    }
    this.#setBusy(false);
  }

  #setBusy(busy) {
    this.#busy = busy;
    this.element.classList.toggle('busy', busy);
    this.element.ariaBusy = String(busy);
  }

  async #play() {
    this.#note(strings.working);
    find(this.element, 'again').ariaDisabled = 'true';
    clearInterval(this.#timer);
    this.#life(0, '');
    this.#steps({ complete: 'now' });
    const { action, verification } = this.element.dataset;
    if (verification === 'quiz' && !this.#questions.open) {
      this.#questions.ask(await api.start(action));
      find(this.element, 'label').textContent = strings.complete;
      return this.#note(strings.answer);
    }
    const evidence = this.#questions.open ? this.#questions.answers : {};
    let token;
    try {
      token = await api.complete(action, evidence);
      this.#ready();
    } catch (problem) {
      // Refused answers are used up; after a lost answer or a wait the same ones can be sent again.
      if (problem.status === 400) this.#ready();
      throw problem;
    }
    this.#startClock(token);
    this.#steps({ complete: 'done', token: 'done', redeem: 'now' });
    find(this.element, 'again').ariaDisabled = null;
    await this.#redeem();
  }

  #ready() {
    this.#questions.clear();
    if (this.element.dataset.verification === 'quiz') find(this.element, 'label').textContent = strings.start;
  }

  async #redeem() {
    try {
      const onLost = () => this.#note(strings.lostAnswer);
      const { award, recovered } = await api.redeemSurely(this.#token, onLost, this.#inDoubt);
      this.#spent = true;
      this.#inDoubt = false;
      this.#steps({ complete: 'done', token: 'done', redeem: 'done' });
      this.#tick();
      // No rank: a receipt has none, nor has a player whom the board does not show.
      this.#praise(award, recovered ? strings.recovered : award.newRank ? strings.awarded : strings.awardedUnranked);
    } catch (problem) {
      this.#inDoubt ||= problem instanceof LostAnswer;
      throw problem;
    }
  }

  #fail(problem) {
    const now = this.element.querySelector('[data-state="now"]');
    if (now) now.dataset.state = 'failed';
    const first = problem.details?.redemption;
    if (problem instanceof LostAnswer) this.#note(strings.noConnection, 'error');
    else if (first) this.#note(fill(strings.alreadySpent, { points: number(first.pointsAwarded) }), 'refused');
    else if (problem.status === 429 && problem.retryAfter) this.#wait(problem.retryAfter);
    else this.#note(said(problem) || problem.message || strings.failed, 'error');
  }

  #wait(seconds) {
    const until = Date.now() + seconds * 1000;
    this.button.ariaDisabled = 'true';
    // Spoken once: the note is a live region, and a countdown in it would never be quiet.
    this.#note(fill(strings.wait, { seconds: number(seconds) }), 'refused');
    clearInterval(this.#timer);
    clearInterval(this.#waitTimer);
    this.#waitTimer = setInterval(() => {
      const left = Math.ceil((until - Date.now()) / 1000);
      if (left > 0) return this.#life(left / seconds, fill(strings.wait, { seconds: number(left) }));
      clearInterval(this.#waitTimer);
      this.button.ariaDisabled = null;
      this.#life(0, '');
      this.#note(strings.goOn);
    }, 1000);
  }

  #startClock(token) {
    this.#token = token;
    this.#spent = this.#inDoubt = false;
    this.#token.until = Date.now() + this.#lifetime(token);
    this.#tick();
    this.#timer = setInterval(() => this.#tick(), 1000);
  }

  /** The device's clock may be wrong; a lifetime that cannot be true falls back to the usual minute. */
  #lifetime({ tokenExpiresAt }) {
    const left = Date.parse(tokenExpiresAt) - Date.now();
    return left > 0 && left <= 3_600_000 ? left : 60_000;
  }

  #tick() {
    const left = Math.max(0, Math.ceil((this.#token.until - Date.now()) / 1000));
    const text = this.#spent ? strings.tokenSpentLeft : strings.tokenLeft;
    this.#life(left / 60, left ? fill(text, { seconds: number(left) }) : strings.tokenOver);
    if (left === 0) clearInterval(this.#timer);
  }

  #life(share, text) {
    find(this.element, 'ring').setAttribute('stroke-dashoffset', 100 - 100 * Math.min(1, share));
    find(this.element, 'life').textContent = text;
  }

  #steps(states) {
    for (const step of this.element.querySelectorAll('[data-step]')) {
      step.dataset.state = states[step.dataset.step] ?? 'open';
    }
  }

  #praise({ pointsAwarded, newRank, newScore }, text) {
    const points = document.createElement('strong');
    points.textContent = `+${number(pointsAwarded)}`;
    this.#note('', 'success');
    find(this.element, 'note').append(points, ` ${fill(text, { rank: number(newRank), score: number(newScore) })}`);
  }

  #note(text, kind = '') {
    const note = find(this.element, 'note');
    note.textContent = text;
    note.dataset.kind = kind;
  }
}

api.addEventListener('call', showCall);
for (const element of page.querySelectorAll('[data-action]')) new Card(element);
