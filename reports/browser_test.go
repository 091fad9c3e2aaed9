package reports

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// browser opens a tab where ETCDRILL_MUST asks for a browser: that takes long.
func browser(t *testing.T) context.Context {
	t.Helper()
	if !slices.Contains(strings.Split(os.Getenv("ETCDRILL_MUST"), ","), "browser") {
		t.Skip("for ETCDRILL_MUST=browser, see `make test-browser`")
	}
	found := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "headless-shell"} {
		if p, err := exec.LookPath(name); err == nil {
			found = p
			break
		}
	}
	if found == "" {
		t.Fatal("ETCDRILL_MUST=browser, and there is no chromium on this machine")
	}
	ctx, stop := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(stop)
	ctx, stop = chromedp.NewExecAllocator(ctx, chromedp.Headless, chromedp.NoSandbox, chromedp.NoFirstRun, chromedp.ExecPath(found))
	t.Cleanup(stop)
	ctx, stop = chromedp.NewContext(ctx)
	t.Cleanup(stop)
	return ctx
}

func eval[T any](t *testing.T, ctx context.Context, js string) T {
	t.Helper()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](js))
	if err != nil {
		t.Fatalf("%s: %v", js, err)
	}
	return v
}

func do(t *testing.T, ctx context.Context, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	if err := chromedp.Do(ctx, steps...); err != nil {
		t.Fatal(err)
	}
}

// listen collects what the page complains of.
func listen(t *testing.T, ctx context.Context) func() []string {
	t.Helper()
	do(t, ctx) // starts the browser
	var all []string
	messages, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	seq := chromedp.Console(messages)
	go func() {
		defer close(done)
		for m, err := range seq {
			if err != nil {
				return
			}
			all = append(all, string(m.Type)+": "+m.Text)
		}
	}()
	return func() []string {
		stop()
		<-done
		return all
	}
}

func TestScrubber(t *testing.T) {
	ctx := browser(t)
	dir, _ := drawn(t, failing())
	complaints := listen(t, ctx)
	do(t, ctx, chromedp.EmulateViewport(1280, 900), chromedp.Navigate("file://"+filepath.Join(dir, FileHTML)))

	text := func(id string) string {
		t.Helper()
		return eval[string](t, ctx, `document.getElementById("`+id+`").textContent`)
	}
	now := func() float64 {
		t.Helper()
		return eval[float64](t, ctx, `Number(document.getElementById("scrub").value)`)
	}
	moment := func(at string, want map[string]string) {
		t.Helper()
		for id, w := range want {
			if got := text(id); !strings.Contains(got, w) {
				t.Errorf("%s: %s says %q, want %q", at, id, got, w)
			}
		}
	}
	key := func(k string) {
		t.Helper()
		eval[any](t, ctx, `document.getElementById("scrub").focus()`)
		do(t, ctx, chromedp.KeyEvent(k))
	}
	to := func(at string) {
		t.Helper()
		eval[any](t, ctx, `(s => { s.value = `+at+`; s.dispatchEvent(new Event("input", {bubbles: true})) })(document.getElementById("scrub"))`)
	}

	to("3.5")
	moment("all well", map[string]string{"s-leader": "m1 term 2", "s-members": "3 of 3", "s-outage": "none", "s-faults": "none", "s-step": "do put", "clock": "3.50"})
	to("4.8")
	moment("no leader", map[string]string{"s-members": "2 of 3", "s-outage": "all out", "s-faults": "first (crash of m1), proved", "s-step": "check leader", "s-leader": "nobody"})
	to("6")
	moment("new leader", map[string]string{"s-leader": "m3 term 3", "s-outage": "none", "s-rate": "/s"})
	if rate := text("s-rate"); strings.HasPrefix(rate, "0/s") {
		t.Errorf("clients are served again, but %q", rate)
	}
	to("8.5")
	moment("no quorum", map[string]string{"s-leader": "nobody", "s-members": "1 of 3", "s-faults": "second", "s-rate": "0/s"})

	was := now()
	key(kb.ArrowRight)
	if n := now(); n <= was || n > was+.2 {
		t.Errorf("arrow right: from %g to %g", was, n)
	}
	key(kb.ArrowLeft)
	if n := now(); n > was+.001 {
		t.Errorf("arrow left: to %g", n)
	}
	key(kb.PageDown)
	if n := now(); n != 10.09 {
		t.Errorf("page down: to %g, want the next step at 10.09", n)
	}
	key(kb.PageUp)
	if n := now(); n >= 10.09 {
		t.Errorf("page up: to %g", n)
	}
	key(kb.Home)
	if got := text("s-step"); !strings.Contains(got, "before the first") {
		t.Errorf("home: %q", got)
	}

	// The cursor stands where the slider says, over all plots.
	to("7")
	if off := eval[float64](t, ctx, `(() => { const r = document.querySelector(".tl .trk").getBoundingClientRect(), c = document.querySelector(".cursor").getBoundingClientRect();
		const s = document.getElementById("scrub"); return Math.abs((c.left + c.width / 2 - r.left) / r.width - (s.value - s.min) / (s.max - s.min)) })()`); off > .005 {
		t.Errorf("the cursor is off by %g of the width", off)
	}
	// A dot of the scatter stands where its time is: the plots share one axis.
	view := `(() => { const s = document.getElementById("scrub"); return [Number(s.min), Number(s.max)] })()`
	before := eval[[]float64](t, ctx, view)
	key("+")
	after := eval[[]float64](t, ctx, view)
	if w, v := before[1]-before[0], after[1]-after[0]; v > w*.51 || v < w*.49 || after[0] > 7 || after[1] < 7 {
		t.Errorf("zoomed from %v to %v", before, after)
	}
	if off := eval[float64](t, ctx, `(() => { const p = document.querySelector(".plot.tall svg").getBoundingClientRect(), r = document.querySelector(".plot.tall .trk").getBoundingClientRect();
		const s = document.getElementById("scrub"), d = JSON.parse(document.getElementById("data").textContent);
		const x = p.left + 7 / d.end * p.width; return Math.abs((x - r.left) / r.width - (7 - s.min) / (s.max - s.min)) })()`); off > .005 {
		t.Errorf("the plot is off by %g of the width", off)
	}
	eval[any](t, ctx, `document.getElementById("fit").click()`)
	if got := eval[[]float64](t, ctx, view); got[0] != before[0] || got[1] != before[1] {
		t.Errorf("fit: %v, want %v", got, before)
	}

	// Dragging over a plot.
	eval[any](t, ctx, `document.querySelector(".plot.tall").scrollIntoView({block: "center", behavior: "instant"})`)
	at := eval[[]float64](t, ctx, `(r => [r.left, r.top + r.height / 2, r.width])(document.querySelector(".plot.tall .trk").getBoundingClientRect())`)
	do(t, ctx, chromedp.DragAndDropXY(at[0]+at[2]*.2, at[1], at[0]+at[2]*.5, at[1]))
	if want, n := before[0]+(before[1]-before[0])*.5, now(); n < want-.05 || n > want+.05 {
		t.Errorf("dragged to %g, want %g", n, want)
	}

	// Playing moves it, and pauses.
	eval[any](t, ctx, `document.getElementById("fit").click()`)
	to("3")
	key(" ")
	if _, err := chromedp.Run(ctx, chromedp.Poll[any](`Number(document.getElementById("scrub").value) > 3.1`)); err != nil {
		t.Fatal(err)
	}
	moment("playing", map[string]string{"play": "Pause"})
	key(" ")
	moment("paused", map[string]string{"play": "Play"})
	stood := now()
	eval[any](t, ctx, `document.getElementById("next").click()`)
	if n := now(); n <= stood {
		t.Errorf("next event: from %g to %g", stood, n)
	}
	// A time anywhere on the page leads to its moment.
	eval[any](t, ctx, `document.querySelector("#steps a[data-t='7.0000']").click()`)
	if n := now(); n != 7 {
		t.Errorf("a step's time leads to %g", n)
	}

	if n := eval[float64](t, ctx, `document.images.length + document.querySelectorAll("script").length`); n != 2 {
		t.Errorf("%g scripts and images: foreign text became markup", n)
	}
	if got := eval[[]string](t, ctx, `performance.getEntriesByType("resource").map(e => e.name)`); len(got) > 0 {
		t.Errorf("the page loads %v", got)
	}
	if all := complaints(); len(all) > 0 {
		t.Errorf("the page complains: %v", all)
	}
}

// At no width does a page stick out, and no text of the time line lies on
// another.
func TestPageWidths(t *testing.T) {
	ctx := browser(t)
	complaints := listen(t, ctx)
	for name, make := range map[string]func() *sample{"pass": passing, "fail": failing, "error": broken, "skip": skipped} {
		dir, _ := drawn(t, make())
		for _, width := range []int64{400, 768, 1280} {
			for _, scheme := range []string{"light", "dark"} {
				do(t, ctx, chromedp.EmulateViewport(width, 900))
				if _, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}); err != nil {
					t.Fatal(err)
				}
				do(t, ctx, chromedp.Navigate("file://"+filepath.Join(dir, FileHTML)))
				if w := eval[float64](t, ctx, `document.documentElement.scrollWidth`); w > float64(width) {
					t.Errorf("%s sticks out at %d: %g", name, width, w)
				}
				if scheme == "dark" && eval[string](t, ctx, `getComputedStyle(document.body).backgroundColor`) == "rgb(251, 251, 249)" {
					t.Errorf("%s is light in the dark", name)
				}
				for _, sel := range []string{".pin", ".dry-text:not(.off)", ".bar-text:not(.off)", ".plot.tall .tick", ".axis:not(.low) .trk span"} {
					if n := eval[float64](t, ctx, `(() => { const r = [...document.querySelectorAll("`+sel+`")].map(e => e.getBoundingClientRect()); let n = 0;
						for (let i = 0; i < r.length; i++) for (let j = 0; j < i; j++) if (r[i].left + 1 < r[j].right && r[j].left + 1 < r[i].right && r[i].top + 3 < r[j].bottom && r[j].top + 3 < r[i].bottom) n++;
						return n })()`); n > 0 {
						t.Errorf("%s at %d: %g overlaps of %s", name, width, n, sel)
					}
				}
				// Everything one reads has enough contrast with what it stands on.
				if bad := eval[[]string](t, ctx, contrast); len(bad) > 0 {
					t.Errorf("%s, %s: too little contrast: %v", name, scheme, bad)
				}
			}
		}
	}
	if all := complaints(); len(all) > 0 {
		t.Errorf("a page complains: %v", all)
	}
}

// contrast lists texts with a contrast below 4.5 to 1, as WCAG 2 counts it.
const contrast = `(() => {
	const rgb = s => { const m = s.match(/[\d.]+/g).map(Number); return m.length > 3 ? m : [...m, 1]; };
	const lum = c => { const f = c.slice(0, 3).map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * f[0] + .7152 * f[1] + .0722 * f[2]; };
	const bad = new Set();
	for (const e of document.querySelectorAll("p, td, th, dt, dd, dd b, dd span, code, h1, h2, h3, summary, .tag, .pin, .seat, .lab, .note, .tick, a, button, strong, figcaption, li")) {
		if (!e.offsetParent || ![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
		let under = null;
		for (let p = e; p && !under; p = p.parentElement) { const c = getComputedStyle(p).backgroundColor; if (c.startsWith("rgb") && rgb(c)[3] === 1) under = c; }
		const a = lum(rgb(getComputedStyle(e).color)), b = lum(rgb(under || "rgb(255,255,255)"));
		const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
		if (ratio < 4.5) bad.add(e.tagName + "." + e.className + " " + ratio.toFixed(2));
	}
	return [...bad];
})()`
