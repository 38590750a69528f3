package api

import (
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

func TestDeviceThatNeverConnected(t *testing.T) {
	c := newCore(t)
	m := c.enroll(c.token(seal.KindDevice, "plant-7"))
	w := c.do(request(http.MethodGet, "/v1/devices/"+m.id.String(), ""))
	for _, want := range []string{
		`"profile":{"model":null`, `"accelerators":[]`, `"assignments":[]`, `"slots":[]`, `"last_heartbeat_at":null`, `"registered_at":null`,
		`"enrolled_at":"2026-03-01T08:00:00Z"`,
	} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s is not in %s", want, w.Body)
		}
	}
	d := read[v1.Device](t, w, http.StatusOK)
	if d.ID != m.id.String() || d.State != "active" || d.Site != "plant-7" || d.Presence != "offline" || d.PresenceReason != "never_connected" {
		t.Errorf("got %+v", d)
	}
	if d.HeartbeatIntervalS != 30 || len(d.Keys) != 1 || d.Keys[0].State != "active" || d.Keys[0].ID != m.kid.String() {
		t.Errorf("got %+v", d)
	}
}

func TestDeviceOnline(t *testing.T) {
	c := newCore(t)
	c.gateway("plant-7", "gw-a")
	m := c.enroll(c.token(seal.KindDevice, "plant-7"))
	c.pass(time.Minute)
	c.register(m, "plant-7/gw-a", start.UnixMilli(), jetson("0.9.0"))
	c.online(m, "plant-7/gw-a", c.wall(), 1)
	c.pass(250 * time.Millisecond)
	c.vouch(m, "plant-7/gw-a")
	d := ask[v1.Device](c, http.MethodGet, "/v1/devices/"+m.id.String(), "", http.StatusOK)
	if d.Presence != "online" || d.PresenceReason != "" || d.Gateway != "plant-7/gw-a" || d.AgentVersion != "0.9.0" {
		t.Errorf("got %+v", d)
	}
	if d.LastHeartbeatAt == nil || !d.LastHeartbeatAt.Equal(c.wall()) || d.PresenceSince == nil || !d.PresenceSince.Equal(start.Add(time.Minute)) {
		t.Errorf("last heartbeat %v, since %v", d.LastHeartbeatAt, d.PresenceSince)
	}
	p := d.Profile
	if *p.Model != "NVIDIA Jetson" || p.SoC != nil || p.OS != nil || *p.RAMBytes != 8<<30 || *p.CPUCores != 6 || p.Hints.Serial != "S1" {
		t.Errorf("got profile %+v", p)
	}
	if !reflect.DeepEqual(p.Unknown, map[string]string{"os": "permission denied"}) || !reflect.DeepEqual(p.Accelerators, []string{"nvidia-gpu"}) {
		t.Errorf("got profile %+v", p)
	}
	if !reflect.DeepEqual(d.Tags, map[string]string{"line": "3", "owner": "agent", "site": "plant-7"}) {
		t.Errorf("got tags %v", d.Tags)
	}
	gws := ask[v1.List[v1.Gateway]](c, http.MethodGet, "/v1/gateways", "", http.StatusOK).Items
	if len(gws) != 1 || gws[0].Site != "plant-7" || gws[0].Name != "gw-a" || !gws[0].Connected || gws[0].Devices != 1 || gws[0].Listen != "gw-a:7443" {
		t.Errorf("got gateways %+v", gws)
	}
	s := ask[v1.Site](c, http.MethodGet, "/v1/sites/plant-7", "", http.StatusOK)
	if s.Devices != 1 || s.Online != 1 || s.Gateways != 1 || s.UnreachableSince != nil || s.HeartbeatIntervalS != 30 {
		t.Errorf("got site %+v", s)
	}
}

func TestListDevicesFilters(t *testing.T) {
	c := newCore(t)
	a, b := c.token(seal.KindDevice, "plant-a"), c.token(seal.KindDevice, "plant-b")
	in, out := c.enroll(a), c.enroll(b)
	quarantined := c.enroll(b)
	c.online(in, "plant-a/gw", c.wall(), 1)
	c.vouch(in, "plant-a/gw")
	c.online(quarantined, "plant-b/gw", c.wall(), 1)
	c.commit(&command.Presence{Gateway: "plant-b/gw", Items: []command.PresenceItem{{
		Device: quarantined.id, Online: true, AtMS: c.wall().UnixMilli(), Attach: &command.Attach{Start: 1, Run: 2, Session: 1},
	}}})
	for _, tc := range []struct {
		query string
		want  []string
	}{
		{"site=plant-a", []string{in.id.String()}},
		{"site=plant-c", nil},
		{"state=quarantined", []string{quarantined.id.String()}},
		{"state=decommissioned", nil},
		{"presence=online&site=plant-a", []string{in.id.String()}},
		{"presence=offline", []string{out.id.String()}},
		{"presence=offline&site=plant-a&consistency=local", nil},
		{"state=quarantined&site", []string{quarantined.id.String()}}, // given without a value: not given
		{"state=&site=plant-a&cursor=", []string{in.id.String()}},
	} {
		got := ask[v1.List[v1.Device]](c, http.MethodGet, "/v1/devices?"+tc.query, "", http.StatusOK)
		if !reflect.DeepEqual(ids(got.Items), tc.want) || got.Items == nil {
			t.Errorf("%s: got %v, want %v", tc.query, ids(got.Items), tc.want)
		}
	}
}

func TestSetDeviceInterval(t *testing.T) {
	c := newCore(t)
	m := c.enroll(c.token(seal.KindDevice, "plant-7"))
	path := "/v1/devices/" + m.id.String()
	for _, step := range []struct {
		method, path, body string
		want               float64
	}{
		{http.MethodPut, "/v1/sites/plant-7", `{"heartbeat_interval":"2s"}`, 2},
		{http.MethodPatch, path, `{"heartbeat_interval":"1h"}`, 3600},
		{http.MethodPatch, path, `{}`, 3600},
		{http.MethodPatch, path, `{"heartbeat_interval":null}`, 3600},
		{http.MethodPatch, path, `{"heartbeat_interval":"1.5s"}`, 1.5},
		{http.MethodPatch, path, `{"heartbeat_interval":""}`, 2},
		{http.MethodPut, "/v1/sites/plant-7", `{}`, 2},
	} {
		w := c.do(request(step.method, step.path, step.body))
		if w.Code != http.StatusOK {
			t.Fatalf("%s %s: %d %s", step.method, step.body, w.Code, w.Body)
		}
		got := ask[v1.Device](c, http.MethodGet, path, "", http.StatusOK).HeartbeatIntervalS
		if got != step.want {
			t.Errorf("after %s %s: interval %v, want %v", step.method, step.body, got, step.want)
		}
	}
	if s := ask[v1.Site](c, http.MethodPut, "/v1/sites/plant-9", `{}`, http.StatusOK); s.Name != "plant-9" || s.HeartbeatIntervalS != 30 {
		t.Errorf("new site: %+v", s)
	}
}

func TestSetTags(t *testing.T) {
	c := newCore(t)
	m := c.enroll(c.token(seal.KindDevice, "plant-7"))
	c.register(m, "plant-7/gw-a", start.UnixMilli(), jetson("0.9.0"))
	path := "/v1/devices/" + m.id.String() + "/tags"
	d := ask[v1.Device](c, http.MethodPatch, path, `{"set":{"line":"4","a/b":"ü"},"remove":["owner","owner"]}`, http.StatusOK)
	if want := map[string]string{"line": "4", "a/b": "ü", "site": "plant-7"}; !reflect.DeepEqual(d.Tags, want) {
		t.Errorf("got %v, want %v", d.Tags, want)
	}
	before := c.View().Index()
	d = ask[v1.Device](c, http.MethodPatch, path, `{}`, http.StatusOK)
	if len(d.Tags) != 3 || c.View().Index() != before {
		t.Errorf("a change of nothing: tags %v, index %d, was %d", d.Tags, c.View().Index(), before)
	}
}

func TestHistory(t *testing.T) {
	c := newCore(t)
	m := c.enroll(c.token(seal.KindDevice, "plant-7"))
	for i, version := range []string{"0.9.0", "0.9.1", "0.9.2"} {
		c.pass(time.Second)
		c.register(m, "plant-7/gw-a", start.Add(time.Duration(i)*time.Hour).UnixMilli(), jetson(version))
		c.online(m, "plant-7/gw-a", c.wall(), uint64(i+1)) // spans are no statements
	}
	path := "/v1/devices/" + m.id.String() + "/history"
	all := ask[v1.List[v1.HistoryItem]](c, http.MethodGet, path, "", http.StatusOK)
	if len(all.Items) != 3 || all.NextCursor != "" {
		t.Fatalf("got %+v", all)
	}
	first, last := all.Items[0], all.Items[2]
	if first.Epoch != 1 || first.Seq != 1 || first.Type != "register" || first.ClockState != "synced" || first.Gateway != "plant-7/gw-a" {
		t.Errorf("got %+v", first)
	}
	if !first.DeviceTime.Equal(start) || !first.CommittedAt.Equal(start.Add(time.Second)) || !first.GatewayTime.Equal(start.Add(time.Second)) || first.Changed == nil {
		t.Errorf("got %+v", first)
	}
	if !reflect.DeepEqual(last.Changed, []v1.Change{{Fact: "agent_version", From: "0.9.1", To: "0.9.2"}}) {
		t.Errorf("got %+v", last.Changed)
	}
	for order, want := range map[string][]uint64{"asc": {1, 2, 3}, "desc": {3, 2, 1}} {
		var seqs []uint64
		for cursor := ""; ; {
			page := ask[v1.List[v1.HistoryItem]](c, http.MethodGet, path+"?limit=1&order="+order+"&cursor="+cursor, "", http.StatusOK)
			for _, it := range page.Items {
				seqs = append(seqs, it.Seq)
			}
			if cursor = page.NextCursor; cursor == "" {
				break
			}
		}
		if !reflect.DeepEqual(seqs, want) {
			t.Errorf("%s: got %v, want %v", order, seqs, want)
		}
	}
}

// What a device or a gateway claims to be the time is not limited, but what RFC 3339 can write is.
func TestAbsurdTimesCanBeRead(t *testing.T) {
	c := newCore(t)
	m := c.enroll(c.token(seal.KindDevice, "plant-7"))
	c.register(m, "plant-7/gw-a", 1<<62, jetson("0.9.0"))
	c.register(m, "plant-7/gw-a", -1<<62, jetson("0.9.1"))
	c.commit(&command.Presence{Gateway: "plant-7/gw-a", Items: []command.PresenceItem{{
		Device: m.id, Online: true, AtMS: 1 << 61, LastMS: 1 << 61, Attach: &command.Attach{Start: 1, Run: 1, Session: 1},
	}}})
	c.offline(m, "plant-7/gw-a", time.UnixMilli(1<<62), time.UnixMilli(1<<62), 0, 0)
	items := ask[v1.List[v1.HistoryItem]](c, http.MethodGet, "/v1/devices/"+m.id.String()+"/history", "", http.StatusOK).Items
	if y0, y1 := items[0].DeviceTime.Year(), items[1].DeviceTime.Year(); y0 != 9999 || y1 != 1970 {
		t.Errorf("years %d and %d", y0, y1)
	}
	ask[v1.List[v1.PresenceItem]](c, http.MethodGet, "/v1/devices/"+m.id.String()+"/presence", "", http.StatusOK)
	ask[v1.Device](c, http.MethodGet, "/v1/devices/"+m.id.String(), "", http.StatusOK)
}

func TestTokens(t *testing.T) {
	c := newCore(t)
	w := c.do(request(http.MethodPost, "/v1/tokens", `{"kind":"device","site":"plant-7","ttl":"90m","uses":3,"tags":{"line":"3"},"comment":"für Halle 3"}`))
	made := read[v1.NewToken](t, w, http.StatusCreated)
	secret, err := seal.ParseToken(made.Token)
	if err != nil || secret.ID.String() != made.ID || secret.Pin[0] != 7 {
		t.Fatalf("token %q, id %s: %v", made.Token, made.ID, err)
	}
	if got := w.Header().Get("Location"); got != "/v1/tokens/"+made.ID {
		t.Errorf("location %q", got)
	}
	if got := w.Header().Get("Cache-Control"); got != "no-store" {
		t.Errorf("cache control %q", got)
	}
	rec, _ := c.View().Token(secret.ID)
	if rec == nil || string(rec.Public) != string(secret.Public()) {
		t.Fatalf("record %+v", rec)
	}
	want := v1.Token{
		ID: made.ID, Kind: "device", Site: "plant-7", Tags: map[string]string{"line": "3"}, Uses: 3, CreatedAt: start, CreatedBy: "op-1",
		ExpiresAt: start.Add(90 * time.Minute), State: "open", Comment: "für Halle 3",
	}
	if !reflect.DeepEqual(made.Record, want) {
		t.Errorf("got %+v, want %+v", made.Record, want)
	}
	got := c.do(request(http.MethodGet, "/v1/tokens/"+made.ID, ""))
	if strings.Contains(got.Body.String(), "hf1_") {
		t.Error("the secret is shown again")
	}
	if g := read[v1.Token](t, got, http.StatusOK); !reflect.DeepEqual(g, want) {
		t.Errorf("got %+v, want %+v", g, want)
	}
	want.State = "revoked"
	for range 2 {
		if g := ask[v1.Token](c, http.MethodDelete, "/v1/tokens/"+made.ID, "", http.StatusOK); !reflect.DeepEqual(g, want) {
			t.Errorf("got %+v, want %+v", g, want)
		}
	}
}

func TestTokenDefaultsAndStates(t *testing.T) {
	c := newCore(t)
	made := ask[v1.NewToken](c, http.MethodPost, "/v1/tokens", `{"kind":"gateway","site":"plant-7"}`, http.StatusCreated).Record
	if made.Uses != 1 || !made.ExpiresAt.Equal(start.Add(time.Hour)) {
		t.Errorf("got %+v", made)
	}
	id, err := seal.ParseTokenID(made.ID)
	if err != nil {
		t.Fatal(err)
	}
	state := func() string {
		return ask[v1.Token](c, http.MethodGet, "/v1/tokens/"+made.ID, "", http.StatusOK).State
	}
	c.pass(2 * time.Hour)
	if got := state(); got != "expired" {
		t.Errorf("state %s", got)
	}
	c.pass(-2 * time.Hour)
	c.commit(&command.Enroll{Token: id, Kind: seal.KindGateway, Name: "gw-a", SPKI: []byte{9}, Cert: []byte{1}})
	if got := state(); got != "used_up" {
		t.Errorf("state %s", got)
	}
}

func TestNodeRoutes(t *testing.T) {
	c := newCore(t)
	if got := ask[v1.Whoami](c, http.MethodGet, "/v1/whoami", "", http.StatusOK); !reflect.DeepEqual(got, v1.Whoami{ID: "op-1", Operator: "admin", Role: "admin", Sites: []string{}, Fleet: "acme"}) {
		t.Errorf("got %+v", got)
	}
	if w := c.do(request(http.MethodGet, "/v1/cluster", "")); !strings.Contains(w.Body.String(), `"name":"core-1"`) || w.Code != http.StatusOK {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if got := ask[v1.Health](c, http.MethodGet, path, "", http.StatusOK); got.Status != "ok" {
			t.Errorf("%s: %+v", path, got)
		}
	}
	w := c.do(request(http.MethodHead, "/v1/whoami", ""))
	if w.Code != http.StatusOK {
		t.Errorf("HEAD: %d", w.Code)
	}
}
