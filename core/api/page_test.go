package api

import (
	"fmt"
	"net/http"
	"slices"
	"testing"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// bulk enrolls a device without a real key, which takes next to no time.
func (c *core) bulk(token seal.TokenID) ident.DeviceID {
	id := ident.NewDeviceID()
	c.apply(&command.Enroll{Token: token, Kind: seal.KindDevice, Device: id, SPKI: id[:], Cert: []byte{1}})
	return id
}

// Whoever was there when the walk began and is there when it ends is seen once, whoever else comes meanwhile.
func TestPagingSeesEachDeviceOnce(t *testing.T) {
	c := newCore(t)
	plant, other := c.token(seal.KindDevice, "plant-7"), c.token(seal.KindDevice, "plant-8")
	want := make(map[string]bool)
	for range 150 {
		want[c.bulk(plant).String()] = true
		c.bulk(other)
	}
	for _, limit := range []int{1, 7, 100, 1000} {
		seen := make(map[string]int)
		var order []string
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for range 200 {
				select {
				case <-stop:
					return
				default:
					c.bulk(plant)
				}
			}
		}()
		for cursor, pages := "", 0; ; pages++ {
			target := fmt.Sprintf("/v1/devices?site=plant-7&limit=%d&cursor=%s", limit, cursor)
			page := ask[v1.List[v1.Device]](c, http.MethodGet, target, "", http.StatusOK)
			if len(page.Items) > limit || len(page.Items) == 0 {
				t.Fatalf("limit %d: %d items", limit, len(page.Items))
			}
			for _, d := range page.Items {
				seen[d.ID]++
				order = append(order, d.ID)
			}
			if cursor = page.NextCursor; cursor == "" {
				break
			}
			if pages > 2000 {
				t.Fatal("the walk does not end")
			}
		}
		close(stop)
		<-stopped
		for id, n := range seen {
			if n != 1 {
				t.Errorf("limit %d: device %s came %d times", limit, id, n)
			}
		}
		for id := range want {
			if seen[id] == 0 {
				t.Errorf("limit %d: device %s was passed over", limit, id)
			}
		}
		if !slices.IsSorted(order) {
			t.Errorf("limit %d: not in order", limit)
		}
	}
}

func TestPagingOfNames(t *testing.T) {
	c := newCore(t)
	for i := range 7 {
		c.gateway(fmt.Sprintf("plant-%d", i), "gw")
	}
	sites := walk(c, "/v1/sites", func(s v1.Site) string { return s.Name })
	gateways := walk(c, "/v1/gateways", func(g v1.Gateway) string { return g.Site })
	if want := []string{"plant-0", "plant-1", "plant-2", "plant-3", "plant-4", "plant-5", "plant-6"}; !slices.Equal(sites, want) || !slices.Equal(gateways, want) {
		t.Errorf("sites %q, gateways %q, want %q", sites, gateways, want)
	}
	tokens := walk(c, "/v1/tokens", func(t v1.Token) string { return t.ID })
	if len(tokens) != 7 || !slices.IsSorted(tokens) || len(slices.Compact(tokens)) != 7 {
		t.Errorf("tokens %q", tokens)
	}
}

// walk reads a list in pages of two.
func walk[T any](c *core, path string, key func(T) string) (out []string) {
	c.t.Helper()
	for cursor := ""; ; {
		page := ask[v1.List[T]](c, http.MethodGet, path+"?limit=2&cursor="+cursor, "", http.StatusOK)
		for _, it := range page.Items {
			out = append(out, key(it))
		}
		if cursor = page.NextCursor; cursor == "" || len(page.Items) == 0 {
			return out
		}
	}
}

// A cursor of one list is refused by every other, and by the same with another filter.
func TestCursorsBelongToTheirList(t *testing.T) {
	c := newCore(t)
	tok := c.token(seal.KindDevice, "plant-7")
	a, b := c.enroll(tok), c.enroll(tok)
	c.register(a, "plant-7/gw", 0, jetson("1"))
	c.register(a, "plant-7/gw", 0, jetson("2"))
	devices := ask[v1.List[v1.Device]](c, http.MethodGet, "/v1/devices?limit=1", "", http.StatusOK).NextCursor
	history := ask[v1.List[v1.HistoryItem]](c, http.MethodGet, "/v1/devices/"+a.id.String()+"/history?limit=1", "", http.StatusOK).NextCursor
	if devices == "" || history == "" {
		t.Fatal("no cursors")
	}
	for _, target := range []string{
		"/v1/devices?site=plant-7&cursor=" + devices, "/v1/devices?state=active&cursor=" + devices, "/v1/devices?presence=offline&cursor=" + devices,
		"/v1/sites?cursor=" + devices, "/v1/tokens?cursor=" + devices, "/v1/gateways?cursor=" + devices, "/v1/devices?cursor=" + history,
		"/v1/devices/" + b.id.String() + "/history?cursor=" + history, "/v1/devices/" + a.id.String() + "/presence?cursor=" + history,
		"/v1/devices/" + a.id.String() + "/history?order=desc&cursor=" + history, "/v1/devices/" + a.id.String() + "/history?cursor=" + devices,
		"/v1/devices?cursor=" + devices[:len(devices)-1], "/v1/devices?cursor=B" + devices[1:], "/v1/devices?cursor=" + devices + "AA",
	} {
		problem(t, c.do(request(http.MethodGet, target, "")), http.StatusUnprocessableEntity)
	}
	if got := ask[v1.List[v1.Device]](c, http.MethodGet, "/v1/devices?limit=5&cursor="+devices, "", http.StatusOK); len(got.Items) != 1 {
		t.Errorf("the right cursor gives %d devices", len(got.Items))
	}
}
