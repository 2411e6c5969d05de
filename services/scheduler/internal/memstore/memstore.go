// Package memstore keeps the scheduler's world in memory. It serves the
// simulator and tests: the product stores in Postgres. It refuses what the
// database's constraints refuse, so that a test over it proves the same.
package memstore

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/cycle"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/learn"
)

// Store implements cycle.Store.
type Store struct {
	mu        sync.Mutex
	term      uint64
	holder    string
	renewed   time.Time
	revision  uint64
	fence     uint64
	records   map[string]cycle.Record
	agents    map[string]cycle.Agent
	receipts  map[string]cycle.Receipt
	decisions map[string][]cycle.Decision
	arrays    map[string]cycle.Array
	schedules map[string]cycle.Schedule
	quotas    map[string]cycle.Quota
	peaks     map[string]learn.Peak
	fail      func() error
	failAfter func() error
}

var _ cycle.Store = (*Store)(nil)

// New makes an empty store.
func New() *Store {
	return &Store{
		records: map[string]cycle.Record{}, agents: map[string]cycle.Agent{},
		receipts: map[string]cycle.Receipt{}, decisions: map[string][]cycle.Decision{},
		arrays: map[string]cycle.Array{}, schedules: map[string]cycle.Schedule{}, quotas: map[string]cycle.Quota{}, peaks: map[string]learn.Peak{},
	}
}

// Sabotage makes commits and renewals fail: before is asked before one is
// applied, after when a commit has been. An error of after is the worst case of a network: it did
// commit, and the caller is told that it failed.
func (s *Store) Sabotage(before, after func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail, s.failAfter = before, after
}

// Lead takes the lead.
func (s *Store) Lead(_ context.Context, holder string, ttl time.Duration) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if holder != s.holder && !s.renewed.IsZero() && time.Since(s.renewed) <= ttl {
		return 0, cycle.ErrLed
	}
	s.term++
	s.holder, s.renewed = holder, time.Now()
	return s.term, nil
}

// Renew keeps the lead.
func (s *Store) Renew(_ context.Context, term uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if term != s.term {
		return cycle.ErrDeposed
	}
	if s.fail != nil {
		if err := s.fail(); err != nil {
			return err
		}
	}
	s.renewed = time.Now()
	return nil
}

// Yield gives the lead up.
func (s *Store) Yield(_ context.Context, term uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if term == s.term {
		s.renewed = time.Time{}
	}
	return nil
}

// Load reads the world.
func (s *Store) Load(context.Context) (cycle.World, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := cycle.World{Revision: s.revision}
	for _, r := range s.records {
		if !r.Job.State.Terminal() {
			w.Records = append(w.Records, r)
		}
	}
	slices.SortFunc(w.Records, func(a, b cycle.Record) int { return int(a.Job.Place - b.Job.Place) })
	for _, a := range s.agents {
		w.Agents = append(w.Agents, a)
	}
	slices.SortFunc(w.Agents, func(a, b cycle.Agent) int { return strings.Compare(a.Name, b.Name) })
	for _, r := range w.Records {
		if id := r.Job.Origin.Array; id != "" && !slices.ContainsFunc(w.Arrays, func(a cycle.Array) bool { return a.ID == id }) {
			w.Arrays = append(w.Arrays, s.arrays[id])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.schedules)) {
		w.Schedules = append(w.Schedules, s.schedules[name])
	}
	for _, key := range slices.Sorted(maps.Keys(s.peaks)) {
		w.Peaks = append(w.Peaks, s.peaks[key])
	}
	for _, tenant := range slices.Sorted(maps.Keys(s.quotas)) {
		w.Quotas = append(w.Quotas, s.quotas[tenant])
	}
	return w, nil
}

// Commit writes a batch of changes.
func (s *Store) Commit(_ context.Context, term uint64, c cycle.Changes) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if term != s.term {
		return cycle.ErrDeposed
	}
	if s.fail != nil {
		if err := s.fail(); err != nil {
			return err
		}
	}
	agents, records, err := s.check(c)
	if err != nil {
		return fmt.Errorf("%w: %w", cycle.ErrRefused, err)
	}
	s.revision, s.renewed = c.Revision, time.Now()
	for n, a := range agents {
		s.agents[n] = a
	}
	for id, r := range records {
		s.records[id] = r
	}
	for _, r := range c.Receipts {
		s.receipts[r.ID] = r
	}
	for _, d := range c.Decisions {
		s.decisions[d.Job] = append(s.decisions[d.Job], d)
	}
	for _, a := range c.Arrays {
		s.arrays[a.ID] = a
	}
	for _, name := range c.GoneSchedules {
		delete(s.schedules, name)
	}
	for _, x := range c.Schedules {
		s.schedules[x.Name] = x
	}
	for _, p := range c.Peaks {
		s.peaks[p.Key] = p
	}
	for _, tenant := range c.GoneQuotas {
		delete(s.quotas, tenant)
	}
	for _, q := range c.Quotas {
		s.quotas[q.Tenant] = q
	}
	if s.failAfter != nil {
		return s.failAfter()
	}
	return nil
}

// check works the changes out on the side and applies the constraints.
func (s *Store) check(c cycle.Changes) (map[string]cycle.Agent, map[string]cycle.Record, error) {
	agents := map[string]cycle.Agent{}
	for _, a := range c.Agents {
		agents[a.Name] = a
	}
	for _, r := range c.Receipts {
		if _, ok := s.receipts[r.ID]; ok {
			return nil, nil, fmt.Errorf("request %s exists", r.ID)
		}
	}
	records := map[string]cycle.Record{}
	get := func(id string) (cycle.Record, bool) {
		if r, ok := records[id]; ok {
			return r, true
		}
		r, ok := s.records[id]
		return r, ok
	}
	for _, j := range c.NewJobs {
		if _, ok := get(j.ID); ok {
			return nil, nil, fmt.Errorf("job %s exists", j.ID)
		}
		records[j.ID] = cycle.Record{Job: j}
	}
	for _, j := range c.Jobs {
		r, ok := get(j.ID)
		if !ok {
			return nil, nil, fmt.Errorf("job %s does not exist", j.ID)
		}
		r.Job = j
		records[j.ID] = r
	}
	for _, a := range c.Attempts {
		r, ok := get(a.Job)
		if !ok || a.Number > len(r.Attempts) {
			return nil, nil, fmt.Errorf("attempt %s/%d does not exist", a.Job, a.Number)
		}
		r.Attempts = slices.Clone(r.Attempts)
		r.Attempts[a.Number-1] = a
		records[a.Job] = r
	}
	for _, a := range c.NewAttempts {
		r, ok := get(a.Job)
		if !ok || a.Number != len(r.Attempts)+1 {
			return nil, nil, fmt.Errorf("attempt %s/%d is out of order", a.Job, a.Number)
		}
		if last, ok := r.Latest(); ok && (last.Live() || last.Fence >= a.Fence) {
			return nil, nil, fmt.Errorf("job %s has a live attempt, or a fence as high", a.Job)
		}
		r.Attempts = append(slices.Clone(r.Attempts), a)
		records[a.Job] = r
	}
	for _, r := range records {
		if err := checkJob(r.Job); err != nil {
			return nil, nil, err
		}
	}
	return agents, records, s.checkDevices(agents, records, c.NewAttempts)
}

func checkJob(j job.Job) error {
	switch {
	case j.State.Terminal() == j.Finished.IsZero():
		return fmt.Errorf("job %s: %s and its end do not agree", j.ID, j.State)
	case (j.State == job.Paused) != (j.Pause != job.NotPaused):
		return fmt.Errorf("job %s: %s and its pause do not agree", j.ID, j.State)
	case (j.State == job.Stopping) != (j.Intent != job.NoIntent):
		return fmt.Errorf("job %s: %s and its intent do not agree", j.ID, j.State)
	case j.State.Live() && (j.Attempts == 0 || j.Fence == 0):
		return fmt.Errorf("job %s: %s without an attempt", j.ID, j.State)
	case !j.NotBefore.IsZero() && j.State != job.Queued:
		return fmt.Errorf("job %s: %s and backing off", j.ID, j.State)
	}
	return nil
}

func (s *Store) checkDevices(agents map[string]cycle.Agent, records map[string]cycle.Record, begun []job.Attempt) error {
	type key struct{ agent, device string }
	touched := map[key]bool{}
	for i := range begun {
		for _, agent := range begun[i].Agents() {
			shares, _ := begun[i].On(agent)
			for _, sh := range shares {
				touched[key{agent, sh.Device}] = true
			}
		}
	}
	if len(touched) == 0 {
		return nil
	}
	held, holders, whole := map[key]int64{}, map[key]int{}, map[key]bool{}
	count := func(r cycle.Record) {
		a, ok := r.Latest()
		if !ok {
			return
		}
		for _, agent := range a.Agents() {
			shares, _ := a.On(agent)
			for _, sh := range shares {
				k := key{agent, sh.Device}
				held[k] += sh.Held
				holders[k]++
				whole[k] = whole[k] || sh.Whole
			}
		}
	}
	for id, r := range s.records {
		if _, ok := records[id]; !ok {
			count(r)
		}
	}
	for _, r := range records {
		count(r)
	}
	for k := range touched {
		a, ok := agents[k.agent]
		if !ok {
			a = s.agents[k.agent]
		}
		room := int64(-1)
		for _, d := range a.Devices {
			if d.ID == k.device {
				room = d.Memory - d.Headroom
			}
		}
		if held[k] > room || whole[k] && holders[k] > 1 {
			return fmt.Errorf("device %s/%s is promised %d of %d bytes to %d", k.agent, k.device, held[k], room, holders[k])
		}
	}
	return nil
}

// Fences draws n fences.
func (s *Store) Fences(_ context.Context, n int) ([]uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]uint64, n)
	for i := range out {
		s.fence++
		out[i] = s.fence
	}
	return out, nil
}

// Receipts finds the answers to requests.
func (s *Store) Receipts(_ context.Context, ids []string) ([]cycle.Receipt, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []cycle.Receipt
	for _, id := range ids {
		if r, ok := s.receipts[id]; ok {
			out = append(out, r)
		}
	}
	return out, nil
}

// Record reads a job with its attempts.
func (s *Store) Record(_ context.Context, id string) (cycle.Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.records[id]
	if !ok {
		return r, cycle.ErrNotFound
	}
	return r, nil
}

// List reads a page of jobs, newest first.
func (s *Store) List(_ context.Context, p cycle.Page) ([]cycle.Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []cycle.Record
	for _, r := range s.records {
		if wanted(&r.Job, p) {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b cycle.Record) int { return int(b.Job.Place - a.Job.Place) })
	return out[:min(len(out), p.Limit)], nil
}

func wanted(j *job.Job, p cycle.Page) bool {
	o := j.Origin
	return (len(p.States) == 0 || slices.Contains(p.States, j.State)) && strings.HasPrefix(j.Spec.Experiment, p.ExperimentPrefix) &&
		(p.Before == 0 || j.Place < p.Before) && (p.Array == "" || o.Array == p.Array) && (p.Graph == "" || o.Graph == p.Graph) &&
		(p.Schedule == "" || o.Schedule == p.Schedule) && (p.Tenant == "" || j.Spec.Tenant == p.Tenant)
}

// Array reads an array with its counts.
func (s *Store) Array(_ context.Context, id string) (cycle.ArrayView, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.arrays[id]
	if !ok {
		return cycle.ArrayView{}, cycle.ErrNotFound
	}
	return s.count(a), nil
}

// Arrays reads a page of arrays.
func (s *Store) Arrays(_ context.Context, before string, limit int) ([]cycle.ArrayView, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []cycle.ArrayView
	for _, id := range slices.Sorted(maps.Keys(s.arrays)) {
		if before == "" || id < before {
			out = append(out, s.count(s.arrays[id]))
		}
	}
	slices.Reverse(out)
	return out[:min(len(out), limit)], nil
}

func (s *Store) count(a cycle.Array) cycle.ArrayView {
	v := cycle.ArrayView{Array: a, Counts: map[job.State]int{}}
	for _, r := range s.records {
		if r.Job.Origin.Array == a.ID {
			v.Counts[r.Job.State]++
		}
	}
	return v
}

// Since reads what changed above a revision.
func (s *Store) Since(_ context.Context, revision uint64, ids []string, limit int) ([]cycle.Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []cycle.Record
	for id, r := range s.records {
		if r.Job.Revision > revision && (len(ids) == 0 || slices.Contains(ids, id)) {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b cycle.Record) int { return int(int64(a.Job.Revision) - int64(b.Job.Revision)) })
	return out[:min(len(out), limit)], nil
}

// Decisions reads a job's history, newest first.
func (s *Store) Decisions(_ context.Context, id string, limit int) ([]cycle.Decision, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := slices.Clone(s.decisions[id])
	slices.Reverse(out)
	return out[:min(len(out), limit)], nil
}

// Forget drops old receipts.
func (s *Store) Forget(_ context.Context, receipts, _ time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, r := range s.receipts {
		if r.At.Before(receipts) {
			delete(s.receipts, id)
		}
	}
	return nil
}

// Ended reads the final jobs that ended before a time.
func (s *Store) Ended(_ context.Context, before time.Time, limit int) ([]cycle.History, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []cycle.History
	for id, r := range s.records {
		if !r.Job.Finished.IsZero() && r.Job.Finished.Before(before) {
			out = append(out, cycle.History{Record: r, Decisions: slices.Clone(s.decisions[id])})
		}
	}
	slices.SortFunc(out, func(a, b cycle.History) int {
		return cmp.Or(a.Job.Finished.Compare(b.Job.Finished), cmp.Compare(a.Job.ID, b.Job.ID))
	})
	return out[:min(len(out), limit)], nil
}

// Drop forgets final jobs.
func (s *Store) Drop(_ context.Context, ids []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		if r, ok := s.records[id]; ok && !r.Job.Finished.IsZero() {
			delete(s.records, id)
			delete(s.decisions, id)
		}
	}
	return nil
}
