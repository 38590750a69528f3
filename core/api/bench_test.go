package api

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// populate makes n registered devices of two sites, and returns their ids.
func populate(c *core, n int) []ident.DeviceID {
	c.t.Helper()
	const batch = 1000 // commands in an entry
	body, err := wire.Marshal(jetson("0.9.0"))
	if err != nil {
		c.t.Fatal(err)
	}
	key, err := ident.NewKey()
	if err != nil {
		c.t.Fatal(err)
	}
	ids := make([]ident.DeviceID, n)
	for begin := 0; begin < n; begin += batch {
		part := ids[begin:min(begin+batch, n)]
		// A token is for at most so many.
		tok := c.token(seal.KindDevice, []string{"plant-7", "plant-8"}[begin/batch%2])
		enroll := make([]command.Command, len(part))
		stated := &command.Statements{}
		for i := range part {
			part[i] = ident.NewDeviceID()
			enroll[i] = &command.Enroll{Token: tok, Kind: seal.KindDevice, Device: part[i], SPKI: part[i][:], Cert: []byte{1}}
			st, err := seal.SealStatement(&seal.Statement{
				Version: seal.StatementVersion, Type: seal.StatementRegister, Device: part[i], Epoch: 1, EpochID: [16]byte{1}, Seq: 1, Clock: seal.ClockSynced, Body: body,
			}, ident.KeyIDOfSPKI(part[i][:]), key)
			if err != nil {
				c.t.Fatal(err)
			}
			stated.Items = append(stated.Items, command.Statement{Sealed: st.Sealed, Gateway: "plant-7/gw", Device: part[i]})
		}
		c.apply(enroll...)
		c.commit(stated)
	}
	return ids
}

// A page of 100 among 100,000 devices, from a place anywhere in the list.
func BenchmarkListPage(b *testing.B) {
	c := newCore(b)
	ids := populate(c, 100_000)
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		cursor := listOf("devices", "", "", "").deviceCursor(ids[i*7919%len(ids)])
		begin := time.Now()
		w := c.do(request(http.MethodGet, "/v1/devices?limit=100&cursor="+cursor, ""))
		took = append(took, time.Since(begin))
		if w.Code != http.StatusOK {
			b.Fatalf("%d %s", w.Code, w.Body)
		}
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}
