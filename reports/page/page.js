(function () {
'use strict';
const $ = id => document.getElementById(id);
const copyText = text => {
  const byHand = () => {
    const t = document.createElement('textarea');
    t.value = text; t.style.position = 'fixed'; t.style.opacity = '0';
    document.body.appendChild(t); t.select();
    let ok = false;
    try { ok = document.execCommand('copy'); } catch (e) { ok = false; }
    t.remove();
    return ok ? Promise.resolve() : Promise.reject();
  };
  return navigator.clipboard ? navigator.clipboard.writeText(text).catch(byHand) : byHand();
};
for (const b of document.querySelectorAll('button.copy')) {
  b.hidden = false;
  const label = b.textContent;
  b.addEventListener('click', () => {
    const full = b.parentNode.parentNode.querySelector('pre.full');
    const text = b.dataset.from ? $(b.dataset.from).value : (full || b.parentNode.querySelector('code')).textContent;
    copyText(text).then(() => { b.textContent = 'Copied'; }, () => { b.textContent = 'Not allowed'; })
      .then(() => setTimeout(() => { b.textContent = label; }, 1500));
  });
}

const section = $('timeline');
if (!section) return;
const D = JSON.parse($('data').textContent);
const tl = section.querySelector('.tl'), scrub = $('scrub'), play = $('play');
document.documentElement.classList.add('js');
section.querySelector('.replay').hidden = false;

let now = D.stops.find(t => t >= D.from && t <= D.to) || D.from, t0 = D.from, t1 = D.to, playing = false, before = 0;
const clamp = (v, a, b) => Math.min(b, Math.max(a, v));
const secs = v => v.toFixed(2) + '\u202fs';
const put = (id, text, small, hot) => {
  const e = $(id);
  e.textContent = text;
  e.classList.toggle('hot', !!hot);
  if (small) { const s = document.createElement('small'); s.textContent = ' ' + small; e.appendChild(s); }
};

// What was the case at t.
function stateAt(t) {
  const s = { leader: null, up: [], down: [], faults: [], step: null, outages: [], rate: null };
  for (const m of D.members) {
    const k = m.seats.find(k => t >= k.a && t < k.b);
    if (!k || k.s === 'no member') continue;
    if (!k.u) { s.down.push(m.name + ' ' + k.s); continue; }
    s.up.push(m.name);
    if (k.s === 'leader' && (!s.leader || k.t > s.leader.term)) s.leader = { name: m.name, term: k.t };
  }
  for (const f of D.faults) {
    if (t < f.a || f.gone !== null && t >= f.gone) continue;
    const how = f.heal !== null && t >= f.heal ? 'healing' : f.bite !== null && t >= f.bite ? 'proved' : 'injected';
    s.faults.push((f.name && f.text.indexOf(f.name) !== 0 ? f.name + ' (' + f.text + ')' : f.text) + ', ' + how);
  }
  for (const p of D.steps) if (t >= p.a && (t <= p.b || !s.step || p.a >= s.step.a)) s.step = p;
  for (const o of D.outages) if (t >= o.start_s && t < o.end_s) s.outages.push(o);
  if (D.load) {
    const i = Math.floor((t - D.load.from) / D.load.w);
    if (i >= 0 && i < D.load.writes.length) s.rate = { writes: D.load.writes[i] / D.load.w, reads: D.load.reads[i] / D.load.w, other: D.load.other[i] / D.load.w };
  }
  return s;
}

function show() {
  const s = stateAt(now);
  section.style.setProperty('--now', now.toFixed(4));
  $('clock').textContent = secs(now);
  scrub.value = now;
  const members = s.up.length + s.down.length;
  const leader = s.leader ? s.leader.name : members ? 'nobody' : '–';
  put('s-leader', leader, s.leader ? 'term ' + s.leader.term : '', members && !s.leader);
  put('s-members', members ? s.up.length + ' of ' + members + ' answer' : '–', s.down.join(', '), s.down.length);
  put('s-rate', s.rate ? Math.round(s.rate.writes + s.rate.reads) + '/s' : '–', s.rate && s.rate.other ? Math.round(s.rate.other) + '/s not' : '');
  const o = s.outages.find(o => o.kind === 'write') || s.outages[0];
  put('s-outage', o ? (s.outages.length > 1 ? 'all' : o.kind + 's') + ' out ' + secs(now - o.start_s) : 'none', o ? 'of ' + secs(o.duration_s) : '', o);
  put('s-faults', s.faults.length ? s.faults.join('; ') : 'none', '', s.faults.length);
  $('s-faults').title = s.faults.join('\n');
  const p = s.step;
  put('s-step', p ? p.i + '  ' + p.text : 'before the first step', p ? (now > p.b ? '(' + p.v + ') ' : '') + p.why : '', p && now > p.b && p.v !== 'ok');
  $('s-step').title = $('s-step').textContent;
  scrub.setAttribute('aria-valuetext', now.toFixed(2) + ' seconds, leader ' + leader + (o ? ', ' + o.kind + 's out' : '') + (p ? ', step ' + p.i : ''));
}

function go(t, quiet) {
  now = clamp(t, 0, D.end);
  if (now < t0 || now > t1) { // the view follows
    const w = t1 - t0;
    t0 = clamp(now - w / 2, 0, Math.max(0, D.end - w)); t1 = t0 + w;
    view();
  }
  show();
  if (!quiet) $('live').textContent = scrub.getAttribute('aria-valuetext');
}

// Ticks and pins depend on how wide the view is.
function view() {
  section.style.setProperty('--t0', t0.toFixed(4));
  section.style.setProperty('--sp', (t1 - t0).toFixed(4));
  scrub.min = t0; scrub.max = t1;
  const width = tl.querySelector('.trk').clientWidth || 800;
  const step = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600].find(s => (t1 - t0) / s * 64 <= width) || 3600;
  for (const a of tl.querySelectorAll('.axis .trk')) {
    a.textContent = '';
    for (let n = Math.ceil(t0 / step - 1e-9); n * step <= t1; n++) {
      const e = document.createElement('span'), v = n * step;
      if ((v - t0) / (t1 - t0) * width < 14 || (t1 - v) / (t1 - t0) * width < 14) continue;
      e.style.setProperty('--a', v.toFixed(4));
      e.textContent = step >= 60 ? v / 60 + '\u202fmin' : +v.toFixed(2) + '\u202fs';
      a.appendChild(e);
    }
  }
  const rows = [], pins = [...tl.querySelectorAll('.pin-at')];
  for (const p of pins) {
    const a = p.firstElementChild;
    a.classList.remove('mini', 'flip');
    let x = (p.style.getPropertyValue('--a') - t0) / (t1 - t0) * width;
    if (x <= width && x + a.offsetWidth > width) { a.classList.add('flip'); x -= a.offsetWidth; }
    let r = 0;
    while (r < rows.length && rows[r] > x) r++;
    if (r > 2) { r = 3; a.classList.remove('flip'); a.classList.add('mini'); }
    rows[r] = Math.max(rows[r] || 0, x + (a.classList.contains('mini') ? 3 : a.offsetWidth + 2));
    p.style.setProperty('--row', r);
  }
  section.style.setProperty('--pins', Math.max(1, rows.length));
  for (const row of tl.querySelectorAll('.fault, .outage')) label(row);
}

// A text that would stand on another bar or text is not shown.
function label(row) {
  const box = row.querySelector('.trk').getBoundingClientRect();
  const bars = [...row.querySelectorAll('.bar, .dry')].map(b => b.getBoundingClientRect());
  const texts = [...row.querySelectorAll('.bar-text, .dry-text')].map((e, i) => ({ e, i, r: e.getBoundingClientRect(), w: bars[i].width }));
  const placed = [];
  for (const t of texts.sort((a, b) => b.w - a.w)) {
    const hits = b => b.left < t.r.right && b.right > t.r.left;
    const clipped = t.r.right - box.right, most = t.e.classList.contains('dry-text') ? 0 : t.r.width / 2;
    const off = clipped > most || t.r.right < box.left || bars.some((b, i) => i !== t.i && hits(b)) || placed.some(hits);
    t.e.classList.toggle('off', off);
    if (!off) placed.push(t.r);
  }
}

function zoom(factor) {
  const w = clamp((t1 - t0) * factor, Math.min(D.end, Math.max(0.05, D.end / 500)), D.end);
  const share = clamp((now - t0) / (t1 - t0), 0, 1);
  t0 = clamp(now - share * w, 0, D.end - w); t1 = t0 + w;
  view(); show();
}
function fit(a, b) { t0 = a; t1 = b; now = clamp(now, a, b); view(); show(); }

function run(on) {
  playing = on;
  play.innerHTML = on ? '<span aria-hidden="true">❚❚</span> Pause' : '<span aria-hidden="true">▶</span> Play';
  if (!on) { $('live').textContent = scrub.getAttribute('aria-valuetext'); return; }
  if (now >= t1 - 1e-6) go(t0, true);
  before = performance.now();
  requestAnimationFrame(frame);
}
function frame(t) {
  if (!playing) return;
  const d = Math.max(0, t - before) / 1000 * Number($('speed').value);
  before = t;
  const end = now <= D.to ? D.to : D.end;
  go(Math.min(end, now + d), true);
  if (now >= end) run(false); else requestAnimationFrame(frame);
}
function jump(dir) {
  const e = 1e-4;
  const s = dir > 0 ? D.stops.find(s => s > now + e) : D.stops.filter(s => s < now - e).pop();
  go(s === undefined ? (dir > 0 ? D.to : D.from) : s);
}

play.addEventListener('click', () => run(!playing));
$('prev').addEventListener('click', () => jump(-1));
$('next').addEventListener('click', () => jump(1));
$('in').addEventListener('click', () => zoom(0.5));
$('out').addEventListener('click', () => zoom(2));
$('fit').addEventListener('click', () => fit(D.from, D.to));
$('all').addEventListener('click', () => fit(0, D.end));
scrub.addEventListener('input', () => go(Number(scrub.value), true));
section.addEventListener('keydown', e => {
  if (e.ctrlKey || e.metaKey || e.altKey || e.target.tagName === 'SELECT') return;
  const step = (t1 - t0) / (e.shiftKey ? 20 : 200);
  const keys = {
    ArrowLeft: () => go(now - step), ArrowRight: () => go(now + step), PageUp: () => jump(-1), PageDown: () => jump(1),
    Home: () => go(t0), End: () => go(t1), '+': () => zoom(0.5), '=': () => zoom(0.5), '-': () => zoom(2), '0': () => fit(D.from, D.to),
  };
  if (e.target === scrub) { keys.ArrowUp = keys.ArrowRight; keys.ArrowDown = keys.ArrowLeft; keys[' '] = () => run(!playing); }
  if (e.target.tagName === 'PRE' || e.target.tagName === 'SUMMARY' || !keys[e.key]) return;
  e.preventDefault();
  keys[e.key]();
});

let dragging = false;
const at = e => {
  const r = tl.querySelector('.trk').getBoundingClientRect();
  return t0 + clamp((e.clientX - r.left) / r.width, 0, 1) * (t1 - t0);
};
tl.addEventListener('pointerdown', e => {
  if (e.button !== 0 || e.target.closest('a')) return;
  dragging = true;
  tl.setPointerCapture(e.pointerId);
  scrub.focus({ preventScroll: true });
  e.preventDefault();
  go(at(e), true);
});
tl.addEventListener('pointermove', e => { if (dragging) go(at(e), true); });
for (const n of ['pointerup', 'pointercancel']) tl.addEventListener(n, () => { if (dragging) { dragging = false; go(now); } });

for (const a of document.querySelectorAll('a[data-t]')) a.addEventListener('click', e => {
  e.preventDefault();
  go(Number(a.dataset.t));
  if (!a.classList.contains('pin')) { section.scrollIntoView(); scrub.focus({ preventScroll: true }); }
});
let waiting = 0;
addEventListener('resize', () => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(view); });
view(); show();
})();
