package registry

import (
	"bytes"
	"maps"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// The model is the registry's rules for tokens, enrollment, tags, intervals, presence and slots once more, written as simply as
// they can be said: plain maps, no copies, no views.
type model struct {
	now     int64
	tokens  map[byte]*modelToken
	devices map[int]*modelDevice // by machine
	sites   map[string]uint32
	have    map[uint64]bool // artifacts, by number
}

type modelToken struct {
	site    string
	expires int64
	left    int
	revoked bool
	uses    map[int]bool // by machine
}

type modelDevice struct {
	site     string
	set      map[string]string
	interval uint32
	online   bool
	gateway  string
	since    int64
	session  uint64

	order, attempt uint64
	slots          map[string]modelSlot
	stated         map[string]modelStatus
}

type modelSlot struct {
	artifact uint64 // number; 0: nothing
	attempt  uint64
}

// A modelStatus is the newest that was committed of a slot.
type modelStatus struct {
	seq   uint64
	state seal.SlotState
}

func newModel() *model {
	return &model{now: start.UnixMilli(), tokens: map[byte]*modelToken{}, devices: map[int]*modelDevice{}, sites: map[string]uint32{}, have: map[uint64]bool{}}
}

// enroll tells whether machine m is refused token n, and takes the use if it is not.
func (w *model) enroll(n byte, m int) (refused bool) {
	t := w.tokens[n]
	if t == nil || t.revoked {
		return true
	}
	if t.uses[m] {
		return w.now >= t.expires+(24*time.Hour).Milliseconds()
	}
	if w.now >= t.expires || t.left == 0 {
		return true
	}
	t.left--
	t.uses[m] = true
	if w.devices[m] == nil {
		w.devices[m] = &modelDevice{site: t.site, set: map[string]string{}, slots: map[string]modelSlot{}, stated: map[string]modelStatus{}}
	}
	return false
}

func (d *modelDevice) tags() map[string]string {
	out := maps.Clone(d.set)
	out["site"] = d.site
	return out
}

// A session draws commands and applies them to the registry and to the model.
type session struct {
	l        *log
	w        *model
	machines []*machine
	facts    *factCheck
	held     map[int][]heldStatus // by machine: stated, and not delivered
}

const modelMachines, modelTokens = 4, 4

func drawToken(t *rapid.T) byte { return rapid.ByteRange(1, modelTokens).Draw(t, "token") }

func (s *session) drawMachine(t *rapid.T) int {
	return rapid.IntRange(0, modelMachines-1).Draw(t, "machine")
}

func drawSite(t *rapid.T) string { return rapid.SampledFrom([]string{"p", "q"}).Draw(t, "site") }

// do applies c and holds its refusal against what the model says.
func (s *session) do(t *rapid.T, c command.Command, refused bool) {
	s.l.apply() // so that the time is this entry's already
	before := s.l.snapshot()
	s.l.index--
	err, _ := s.l.apply(c).Results[0].(error)
	if (err != nil) != refused {
		t.Fatalf("%T: %v, the model says refused=%v", c, err, refused)
	}
	if refused && !bytes.Equal(before, s.l.snapshot()) {
		t.Fatalf("%T was refused and changed the state", c)
	}
}

func (s *session) createToken(t *rapid.T) {
	n := drawToken(t)
	c := token(n, rapid.Uint32Range(0, 3).Draw(t, "uses"))
	c.Site, c.TTLMS = drawSite(t), rapid.Int64Range(1, 48*3600*1000).Draw(t, "ttl")
	exists := s.w.tokens[n] != nil
	s.do(t, c, exists)
	if !exists {
		s.w.tokens[n] = &modelToken{site: c.Site, expires: s.w.now + c.TTLMS, left: int(c.Uses), uses: map[int]bool{}}
	}
}

func (s *session) revokeToken(t *rapid.T) {
	n := drawToken(t)
	tok := s.w.tokens[n]
	s.do(t, &command.RevokeToken{ID: seal.TokenID{n}}, tok == nil)
	if tok != nil {
		tok.revoked = true
	}
}

func (s *session) enroll(t *rapid.T) {
	n, m := drawToken(t), s.drawMachine(t)
	c := s.machines[m].enroll(n)
	s.do(t, c, s.w.enroll(n, m))
}

func (s *session) setTags(t *rapid.T) {
	m := s.drawMachine(t)
	names := rapid.SampledFrom([]string{"a", "b", "c"})
	c := &command.SetTags{Device: s.machines[m].id, Set: rapid.MapOf(names, rapid.SampledFrom([]string{"1", "2"})).Draw(t, "set")}
	c.Remove = rapid.SliceOfN(names, 0, 3).Draw(t, "remove")
	d := s.w.devices[m]
	s.do(t, c, d == nil)
	if d == nil {
		return
	}
	for _, k := range c.Remove {
		delete(d.set, k)
	}
	maps.Copy(d.set, c.Set)
}

func (s *session) setInterval(t *rapid.T) {
	m, ms := s.drawMachine(t), rapid.SampledFrom([]uint32{0, 1000, 60_000}).Draw(t, "interval")
	d := s.w.devices[m]
	s.do(t, &command.SetInterval{Device: s.machines[m].id, IntervalMS: ms}, d == nil)
	if d != nil {
		d.interval = ms
	}
}

func (s *session) setSite(t *rapid.T) {
	c := &command.SetSite{Site: drawSite(t), IntervalMS: rapid.SampledFrom([]uint32{0, 2000, 5000}).Draw(t, "interval")}
	s.do(t, c, false)
	if c.IntervalMS != 0 {
		s.w.sites[c.Site] = c.IntervalMS
	}
}

func (s *session) report(t *rapid.T) {
	m := s.drawMachine(t)
	gw := rapid.SampledFrom([]string{gwA, gwB}).Draw(t, "gateway")
	at := start.Add(time.Duration(rapid.IntRange(0, 1000).Draw(t, "at")) * time.Second)
	d, x := s.w.devices[m], s.machines[m]
	if rapid.Bool().Draw(t, "offline") {
		s.do(t, x.offline(gw, at, at), false)
		if d != nil && d.online && d.gateway == gw {
			d.online, d.since = false, s.clamped(d, at)
		}
		return
	}
	ses := rapid.Uint64Range(1, 6).Draw(t, "session")
	s.do(t, x.online(gw, at, x.attach(1, 1, ses)), false)
	if d == nil || ses < d.session {
		return
	}
	goesOn := d.online && d.gateway == gw && at.UnixMilli() <= d.since
	d.session = ses
	if !goesOn {
		d.online, d.gateway, d.since = true, gw, s.clamped(d, at)
	}
}

// clamped is a gateway's time within what the log knows.
func (s *session) clamped(d *modelDevice, at time.Time) int64 {
	return min(max(at.UnixMilli(), d.since), s.w.now)
}

func (s *session) pass(t *rapid.T) {
	d := rapid.SampledFrom([]time.Duration{time.Millisecond, time.Hour, 24 * time.Hour}).Draw(t, "time")
	s.l.now = s.l.now.Add(d)
	s.w.now += d.Milliseconds()
}

func (s *session) saveAndRestore(t *rapid.T) { s.l.state = restore(t, s.l.snapshot()) }

// check holds the whole registry against the model.
func (s *session) check(t *rapid.T) {
	v := s.l.state.View()
	s.facts.all(t, v)
	if v.DeviceCount() != len(s.w.devices) {
		t.Fatalf("%d devices, the model has %d", v.DeviceCount(), len(s.w.devices))
	}
	for m, w := range s.w.devices {
		d, ok := v.DeviceByKey(s.machines[m].kid)
		if !ok || d.ID != s.machines[m].id || d.Site != w.site {
			t.Fatalf("machine %d: record %+v", m, d)
		}
		if !maps.Equal(d.Tags(), w.tags()) {
			t.Fatalf("machine %d: tags %v, the model has %v", m, d.Tags(), w.tags())
		}
		want := uint32(30_000)
		if own, site := w.interval, s.w.sites[w.site]; own != 0 {
			want = own
		} else if site != 0 {
			want = site
		}
		if got := v.Interval(d); got != time.Duration(want)*time.Millisecond {
			t.Fatalf("machine %d: interval %v, the model has %d ms", m, got, want)
		}
		s.checkSlots(t, m, w, d)
		if p := d.Presence; p.Online != w.online || p.Gateway != w.gateway || p.SinceMS != w.since {
			t.Fatalf("machine %d: presence %+v, the model has %+v", m, p, w)
		}
	}
	s.checkCounts(t, v)
	for n, w := range s.w.tokens {
		tok, ok := v.Token(seal.TokenID{n})
		if !ok || int(tok.Uses-tok.Used) != w.left || (tok.RevokedMS != 0) != w.revoked {
			t.Fatalf("token %d: %+v, the model has %+v", n, tok, w)
		}
	}
}

// checkCounts holds the counts, of all sites and of each, against the model's devices.
func (s *session) checkCounts(t *rapid.T, v View) {
	want := map[Count]int{}
	for _, w := range s.w.devices {
		want[Count{Site: w.site}]++
		if w.online {
			want[Count{Site: w.site, Online: true, Gateway: w.gateway}]++
		}
	}
	collect := func(into map[Count]int, site string) func(*Count) bool {
		return func(c *Count) bool {
			if site != "" && c.Site != site {
				t.Fatalf("asked for site %s, got %+v", site, c)
			}
			into[Count{Site: c.Site, Online: c.Online, Gateway: c.Gateway}] += c.Devices
			return true
		}
	}
	all, each := map[Count]int{}, map[Count]int{}
	v.Counts(collect(all, ""))
	for _, site := range []string{"p", "q", "r"} {
		v.SiteCounts(site, collect(each, site))
	}
	if !maps.Equal(all, want) || !maps.Equal(each, want) {
		t.Fatalf("counts %v, by site %v, the model has %v", all, each, want)
	}
}

func TestRegistryAgainstModel(t *testing.T) {
	machines := make([]*machine, modelMachines)
	for i := range machines {
		machines[i] = newMachine(t)
	}
	rapid.Check(t, func(t *rapid.T) {
		for _, m := range machines {
			m.seq, m.chain = 0, seal.Chain{}
		}
		s := &session{l: publishing(t), w: newModel(), machines: machines, facts: newFactCheck(), held: make(map[int][]heldStatus)}
		t.Repeat(map[string]func(*rapid.T){
			"create token": s.createToken, "revoke token": s.revokeToken, "enroll": s.enroll, "set tags": s.setTags,
			"set interval": s.setInterval, "set site": s.setSite, "report": s.report, "pass time": s.pass, "restore": s.saveAndRestore,
			"add artifact": s.addArtifact, "delete artifact": s.deleteArtifact, "assign": s.assign, "unassign": s.unassign, "retry": s.retry,
			"state": s.stateStatus, "deliver": s.deliver,
			"": s.check,
		})
	})
}

// Ids are never given twice, whoever asks and however often.
func TestDeviceIDsAreUnique(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		l := newLog(rt)
		l.ok(token(1, 1000))
		l.ok(token(2, 1000))
		pool := []*machine{newMachine(rt), newMachine(rt), newMachine(rt)}
		owner := map[ident.DeviceID]ident.KeyID{}
		for range rapid.IntRange(1, 40).Draw(rt, "tries") {
			m := rapid.SampledFrom(pool).Draw(rt, "machine")
			c := m.enroll(rapid.ByteRange(1, 2).Draw(rt, "token"))
			c.Device = rapid.SampledFrom(pool).Draw(rt, "id").id
			e, ok := l.apply(c).Results[0].(*Enrolled)
			if !ok {
				continue
			}
			if k, taken := owner[e.Device.ID]; taken && k != m.kid {
				rt.Fatalf("device %v was given to two keys", e.Device.ID)
			}
			owner[e.Device.ID] = m.kid
		}
		if got := l.state.View().DeviceCount(); got != len(owner) {
			rt.Fatalf("%d devices for %d ids", got, len(owner))
		}
	})
}
