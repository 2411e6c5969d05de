package retention

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestDefaultPolicyIsTheOneThatIsPromised(t *testing.T) {
	t.Parallel()
	p := DefaultPolicy()
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	r, ok := p.RuleFor("any/thing")
	if !ok || r.KeepTop != 5 || r.ArchiveAfter != 30*day || r.DeleteAbandonedAfter != 90*day || p.Grace != 7*day ||
		r.KeepLastPerLiveJob != 2 || p.Caps.MaxDropFraction != 0.10 || p.Watermark.AlertAt != 0.80 {
		t.Fatalf("defaults moved: %+v", p)
	}
}

func TestEveryProblemOfAPolicyIsReportedAtOnce(t *testing.T) {
	t.Parallel()
	bad := DefaultRule()
	bad.Experiments = []string{"bull-*", "", "bull-*"}
	bad.KeepTop = 0
	bad.KeepLastPerLiveJob = 0
	bad.MinTrades = -1
	bad.YoungFor = time.Minute
	bad.DropOutrankedAfter = 0
	bad.ArchiveAfter = 100 * day
	all := DefaultRule()
	all.Experiments = []string{"*"}
	never := DefaultRule()
	p := Policy{Version: 2, Grace: -1, Rules: []Rule{bad, all, never}, Caps: Caps{MaxDropFraction: math.NaN(), MaxMissingFraction: 2, SmallDropBytes: -1, SmallMissing: -1},
		Watermark: Watermark{AlertAt: 0, TightenAt: 0.8, ArchiveAfter: 10, DeleteAbandonedAfter: 5}}
	err := p.Validate()
	var pe *PolicyError
	if !errors.As(err, &pe) {
		t.Fatalf("got %v", err)
	}
	for _, path := range []string{
		"version:", "revision:", "grace:", "rules[0].experiments[1]:", "rules[0].experiments[2]:", "rules[0].keep_top:", "rules[0].min_trades:",
		"rules[0].keep_last_per_live_job:", "rules[0].young_for:", "rules[0].drop_outranked_after:", "rules[0].delete_abandoned_after:",
		"rules[2]:", "rules[2].experiments:", "caps.max_drop_fraction:", "caps.max_missing_fraction:", "caps.small_drop_bytes:",
		"caps.small_missing:", "caps.max_clock_jump:", "watermark.alert_at:", "watermark.keep_top:", "watermark.delete_abandoned_after:",
	} {
		if !strings.Contains(err.Error(), "  "+path) {
			t.Errorf("no problem at %s in:\n%v", path, err)
		}
	}
	if _, err := Decide(Policy{}, Inventory{}, testNow); err == nil {
		t.Error("an empty policy decided")
	}
}

// A policy that passes validation never drops the best checkpoint of an
// experiment that is in use.
func TestAValidPolicyKeepsTheBest(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := anyPolicy().Draw(t, "policy")
		p.Rules[0].DeleteAbandonedAfter = Never
		plan := mustDecide(t, p, anyInventory().Draw(t, "inventory"), testNow)
		for _, d := range plan.Decisions {
			if d.Rank == 1 && d.Verdict == Drop && !plan.Tightened {
				t.Fatalf("the best goes: %s", d.Text())
			}
		}
	})
}

func TestPatterns(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"*", "", true}, {"*", "a/b", true}, {"bull-*", "bull-1", true}, {"bull-*", "bear-1", false}, {"*-search", "a/b-search", true},
		{"b?ll", "bull", true}, {"b?ll", "bll", false}, {"a*b*c", "axxbyyc", true}, {"a*b*c", "axxbyy", false}, {"", "", true}, {"a", "ab", false},
		{"**", "x", true},
	} {
		if got := matches(c.pattern, c.name); got != c.want {
			t.Errorf("matches(%q, %q) = %v", c.pattern, c.name, got)
		}
	}
}

func TestFirstMatchingRuleDecidesAndNoRuleKeeps(t *testing.T) {
	t.Parallel()
	p := DefaultPolicy()
	tight := DefaultRule()
	tight.Name, tight.Experiments, tight.KeepTop = "search", []string{"search/*"}, 1
	p.Rules = []Rule{tight, {Name: "bull", Experiments: []string{"*bull*"}, KeepTop: 2, KeepLastPerLiveJob: 1,
		YoungFor: day, DropOutrankedAfter: day, ArchiveAfter: Never, DeleteAbandonedAfter: Never}}
	var v Inventory
	for _, x := range []string{"search/bull", "bull", "other"} {
		for _, id := range []string{"1", "2", "3"} {
			v.Checkpoints = append(v.Checkpoints, Checkpoint{ID: x + id, Experiment: x, State: StateLive, CreateTime: testNow.Add(-200 * day), Sharpe: Measured(1),
				LastUse: testNow})
		}
	}
	drops := map[string]int{}
	for _, d := range mustDecide(t, p, v, testNow).Decisions {
		if d.Verdict == Drop {
			drops[d.Experiment]++
		}
	}
	if drops["search/bull"] != 2 || drops["bull"] != 1 || drops["other"] != 0 {
		t.Fatalf("drops %v", drops)
	}
}

func TestGuard(t *testing.T) {
	t.Parallel()
	p := DefaultPolicy()
	v := Inventory{}
	for i := range 20 {
		c := Checkpoint{ID: string(rune('a' + i)), Experiment: "x", State: StateLive, CreateTime: testNow.Add(-41 * day), Sharpe: Measured(1)}
		c.Files = []File{{Digest: c.ID, Bytes: 10}}
		v.Checkpoints = append(v.Checkpoints, c)
	}
	plan := mustDecide(t, p, v, testNow)
	fine := Circumstances{Now: testNow, LastRun: testNow.Add(-time.Hour), LastCatalogued: 20, Bucket: Bucket{Catalogued: 20, Listed: 20}}
	p.Caps.SmallDropBytes = 1000
	if r := Guard(p.Caps, plan, v, fine); len(r) != 0 {
		t.Fatalf("an ordinary run is refused: %v", r)
	}
	for name, c := range map[string]struct {
		change func(*Circumstances, *Caps)
		want   RefusalCode
		firm   bool
	}{
		"much at once":          {change: func(_ *Circumstances, k *Caps) { k.SmallDropBytes = 50 }, want: RefuseTooMuch},
		"clock back":            {change: func(c *Circumstances, _ *Caps) { c.LastRun = testNow.Add(time.Hour) }, want: RefuseClockBack},
		"clock jumped":          {change: func(c *Circumstances, _ *Caps) { c.LastRun = testNow.Add(-25 * time.Hour) }, want: RefuseClockJump},
		"off, a person came":    {change: func(c *Circumstances, _ *Caps) { c.LastRun = testNow.Add(-25 * time.Hour); c.Attended = true }},
		"clock set":             {change: func(c *Circumstances, _ *Caps) { c.ClockStep = 25 * time.Hour; c.Attended = true }, want: RefuseClockJump},
		"clock set back":        {change: func(c *Circumstances, _ *Caps) { c.ClockStep = -25 * time.Hour }, want: RefuseClockJump},
		"clock corrected":       {change: func(c *Circumstances, _ *Caps) { c.ClockStep = time.Hour }},
		"first run":             {change: func(c *Circumstances, _ *Caps) { c.LastRun = time.Time{}; c.LastCatalogued = 1000 }},
		"catalogue shrank":      {change: func(c *Circumstances, _ *Caps) { c.LastCatalogued = 24 }, want: RefuseCatalogue},
		"empty listing":         {change: func(c *Circumstances, _ *Caps) { c.Bucket = Bucket{Catalogued: 20, Missing: 20} }, want: RefuseListing, firm: true},
		"listing lost some":     {change: func(c *Circumstances, _ *Caps) { c.Bucket.Missing = 4 }, want: RefuseListing},
		"listing lost a few":    {change: func(c *Circumstances, _ *Caps) { c.Bucket.Missing = 3 }},
		"stale plan":            {change: func(c *Circumstances, _ *Caps) { c.Now = testNow.Add(61 * time.Minute) }, want: RefuseStalePlan, firm: true},
		"clock set a year back": {change: func(c *Circumstances, _ *Caps) { c.LastRun = time.Time{}; c.Now = testNow.Add(-365 * day) }, want: RefuseFutureStore},
	} {
		at, caps := fine, p.Caps
		c.change(&at, &caps)
		refused := func() bool {
			refusals := Guard(caps, plan, v, at)
			for _, r := range refusals {
				if r.Code == c.want && r.Confirmable != c.firm {
					return true
				}
			}
			if len(refusals) > 0 && c.want == "" {
				t.Errorf("%s: refused: %v", name, refusals)
			}
			return false
		}
		if got := refused(); got != (c.want != "") {
			t.Errorf("%s: refused %v, want %q", name, got, c.want)
		}
		at.Confirmed = true
		if got := refused(); got != c.firm {
			t.Errorf("%s: refused %v after a confirmation", name, got)
		}
	}
}
