/**
 * A screen that nobody sits at: it shows the time, stays awake, spares its pixels and heals itself.
 *
 * @module tv
 */

const MINUTE = 60_000;
const CURSOR_HIDES_AFTER = 3000;
const DRIFT = ['0', '1px 0', '2px 1px', '1px 2px', '0 2px', '-1px 1px', '-2px 0', '-1px -1px'];
const RELOAD_HOUR = 4;

const root = document.documentElement;
const clock = document.querySelector('[data-part="clock"]');
const time = new Intl.DateTimeFormat(root.lang || undefined, { timeStyle: 'short', numberingSystem: 'latn' });

function tellTime() {
  const text = time.format(Date.now());
  if (clock.textContent !== text) clock.textContent = text;
}

let idleTimer = 0;
function wakeCursor() {
  root.classList.remove('idle');
  clearTimeout(idleTimer);
  idleTimer = setTimeout(() => root.classList.add('idle'), CURSOR_HIDES_AFTER);
}

async function stayAwake() {
  if (document.hidden) return;
  try {
    await navigator.wakeLock?.request('screen');
  } catch {
    // Refused, for instance on battery: the board is shown as long as the device likes.
  }
}

let minutes = 0;
function drift() {
  minutes += 1;
  document.querySelector('.board').style.translate = DRIFT[minutes % DRIFT.length];
}

/** Once a night, at a moment of its own, so that a new release reaches screens nobody touches. */
function reloadAtNight() {
  const at = new Date();
  at.setHours(RELOAD_HOUR, 0, 0, 0);
  at.setTime(at.getTime() + (Math.random() * 40 - 20) * MINUTE);
  if (at <= Date.now() + 30 * MINUTE) at.setDate(at.getDate() + 1);
  setTimeout(reloadOnceServed, at - Date.now());
}

/** A page that is up shows the last known board; an error page in its place would stay for ever. */
async function reloadOnceServed() {
  try {
    if ((await fetch(location.href, { method: 'HEAD' })).ok) return location.reload();
  } catch {
    // Not now, then.
  }
  setTimeout(reloadOnceServed, MINUTE);
}

tellTime();
setInterval(tellTime, 1000);
setInterval(drift, MINUTE);
for (const type of ['pointermove', 'keydown', 'focusin']) addEventListener(type, wakeCursor);
document.addEventListener('visibilitychange', stayAwake);
wakeCursor();
stayAwake();
reloadAtNight();
