/**
 * The public API as a player's client uses it: gets an access token, completes an action, redeems the score token.
 * Every call is reported, so that a page can show what happened.
 *
 * @module api
 */

// The access token lives 15 minutes; a minute less leaves room for slow calls and wrong clocks.
const ACCESS_LASTS = 14 * 60_000;
const RESEND_AFTER = [500, 1500, 3000];
const ANSWER_WITHIN = 10_000;

const pause = (time) => new Promise((done) => setTimeout(done, time));

/** An answer that refuses: its `status`, `code`, `message`, `details` and, where told, `retryAfter` in seconds. */
export class Refusal extends Error {
  constructor(status, error = {}, retryAfter = null) {
    super(error.message ?? '');
    this.status = status;
    this.code = error.code ?? '';
    this.details = error.details ?? {};
    this.retryAfter = retryAfter;
  }
}

/** No answer came, so nobody here knows whether the server acted. */
export class LostAnswer extends Error {}

export class PlayerApi extends EventTarget {
  #paths;
  #csrfToken;
  #access = null;
  #accessUntil = 0;

  /**
   * @param {{tokenPath: string, startPath: string, completePath: string, updatePath: string}} paths
   * @param {string} csrfToken proves to the token page that this page is the site's own
   */
  constructor(paths, csrfToken) {
    super();
    this.#paths = paths;
    this.#csrfToken = csrfToken;
  }

  /** The questions of a quiz: `{attemptId, questions: [{id, text, choices}], expiresAt}`. */
  start(actionType) {
    return this.#authorized(this.#paths.startPath, { actionType });
  }

  /** A score token. What was completed before, and not redeemed yet, gives its token once more: an answer may have got lost. */
  async complete(actionType, actionData = {}) {
    const body = { actionType, actionData, clientTimestamp: new Date().toISOString() };
    try {
      return await this.#authorized(this.#paths.completePath, body);
    } catch (problem) {
      if (problem.details?.completion) return problem.details.completion;
      throw problem;
    }
  }

  redeem({ scoreToken, actionId }) {
    return this.#authorized(this.#paths.updatePath, { actionId }, { 'X-Score-Token': scoreToken });
  }

  /**
   * Redeems and does not give up on a lost answer: the same token can be sent again without risk, since it counts once.
   * A refusal that names the first redemption then means that the lost call had arrived.
   *
   * @param {object} token
   * @param {function(): void} onLost called once when the first answer is lost
   * @param {boolean} inDoubt true where an earlier call with this token got no answer
   * @returns {Promise<{award: object, recovered: boolean}>}
   */
  async redeemSurely(token, onLost, inDoubt = false) {
    for (let attempt = 0; ; attempt += 1) {
      try {
        return { award: await this.redeem(token), recovered: false };
      } catch (problem) {
        const earlier = problem.code === 'TOKEN_ALREADY_USED' && problem.details.redemption;
        if ((inDoubt || attempt > 0) && earlier) return { award: earlier, recovered: true };
        if (!(problem instanceof LostAnswer) || attempt === RESEND_AFTER.length) throw problem;
        if (attempt === 0) onLost();
        await pause(RESEND_AFTER[attempt]);
      }
    }
  }

  async #authorized(path, body, headers = {}) {
    const call = async () => this.#post(path, body, { ...headers, Authorization: `Bearer ${await this.#token()}` });
    try {
      return await call();
    } catch (problem) {
      if (problem.status !== 401) throw problem;
      this.#access = null;
      return call();
    }
  }

  async #token() {
    if (this.#access && Date.now() < this.#accessUntil) return this.#access;
    const { access } = await this.#post(this.#paths.tokenPath, {}, { 'X-CSRFToken': this.#csrfToken });
    this.#access = access;
    this.#accessUntil = Date.now() + ACCESS_LASTS;
    return access;
  }

  async #post(path, body, headers) {
    const started = performance.now();
    const report = (status, requestId, answer) => {
      const milliseconds = Math.round(performance.now() - started);
      const detail = { method: 'POST', path, status, milliseconds, requestId, body: answer };
      this.dispatchEvent(new CustomEvent('call', { detail }));
    };
    let response;
    let text;
    try {
      response = await fetch(path, {
        method: 'POST',
        credentials: 'same-origin',
        headers: { 'Content-Type': 'application/json', Accept: 'application/json', ...headers },
        body: JSON.stringify(body),
        signal: AbortSignal.timeout(ANSWER_WITHIN),
      });
      text = await response.text();
    } catch {
      report(null, null, null);
      throw new LostAnswer();
    }
    const answer = parse(text);
    report(response.status, response.headers.get('X-Request-ID'), answer);
    if (response.ok && answer?.success) return answer.data;
    // Only this refusal promises that nothing was spent; behind any other 5xx the points may be in.
    if (response.status >= 500 && answer?.error?.code !== 'UNAVAILABLE') throw new LostAnswer();
    const retryAfter = Number(response.headers.get('Retry-After')) || null;
    throw new Refusal(response.status, answer?.error, retryAfter);
  }
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
