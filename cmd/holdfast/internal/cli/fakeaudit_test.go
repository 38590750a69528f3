package cli

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident/identtest"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// acme is the fleet whose authority signs the heads of the fake core's trail.
func acme(t *testing.T) *identtest.Fleet {
	t.Helper()
	acmeOnce.Do(func() { acmeFleet = identtest.New(t, "acme", fakeNow.Add(-time.Hour)) })
	return acmeFleet
}

var (
	acmeOnce  sync.Once
	acmeFleet *identtest.Fleet
)

func rootPEM(f *identtest.Fleet) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Root.Cert.Raw}))
}

// An auditTrail is encoded records, in turn.
type auditTrail [][]byte

// newAuditTrail makes n records. Rewrite, if not nil, changes them before they are chained.
func newAuditTrail(n int, rewrite func(*registry.AuditRecord)) auditTrail {
	var out auditTrail
	var prev [32]byte
	for i := range n {
		r := registry.AuditRecord{
			Seq: uint64(i + 1), Prev: prev, Index: uint64(10*i + 7), TimeMS: fakeNow.Add(time.Duration(i-n) * time.Minute).UnixMilli(),
			Actor: "operator:op-1", Action: "device.tag", Target: idA, Site: "plant-7", Request: "rq" + strconv.Itoa(i), Source: "192.0.2.7", Outcome: registry.OutcomeDone,
		}
		switch i % 4 {
		case 1:
			r.Detail = map[string]string{"line": "<3> & \"4\"", "role": "\u202e\x7f\\n"}
		case 2:
			r = registry.AuditRecord{Seq: r.Seq, Prev: prev, Index: r.Index, TimeMS: r.TimeMS + 123, Actor: "core", Action: "device.quarantine", Outcome: r.Outcome}
		case 3:
			r.Outcome, r.Detail = registry.OutcomeRefused, map[string]string{"reason": "é ✓", "count": "3"}
		}
		if rewrite != nil {
			rewrite(&r)
		}
		b, err := wire.Marshal(&r)
		if err != nil {
			panic(err)
		}
		out, prev = append(out, b), registry.AuditHash(b)
	}
	return out
}

// shown is what the API shows of the records after the given number.
func (t auditTrail) shown(after int) []v1.AuditRecord {
	out := []v1.AuditRecord{}
	for _, b := range t[min(after, len(t)):] {
		var r registry.AuditRecord
		if err := wire.Unmarshal(b, &r); err != nil {
			panic(err)
		}
		hash := registry.AuditHash(b)
		out = append(out, v1.AuditRecord{
			Seq: r.Seq, Index: r.Index, Time: time.UnixMilli(r.TimeMS).UTC(), Actor: r.Actor, Action: r.Action, Target: r.Target, Site: r.Site,
			Request: r.Request, Source: r.Source, Outcome: r.Outcome, Detail: r.Detail, Raw: base64.StdEncoding.EncodeToString(b), Hash: hex.EncodeToString(hash[:]),
		})
	}
	return out
}

// lines is the trail as the API exports it.
func (t auditTrail) lines(after int) []byte {
	var b bytes.Buffer
	for _, r := range t.shown(after) {
		if err := json.NewEncoder(&b).Encode(r); err != nil {
			panic(err)
		}
	}
	return b.Bytes()
}

// head is what the authority of f says about the trail after n records.
func (t auditTrail) head(f *identtest.Fleet, n int) *seal.AuditHead {
	h := &seal.AuditHead{Version: seal.AuditHeadVersion, Fleet: f.Name, ClusterEpoch: 1, Seq: uint64(n), LogTimeMS: fakeNow.UnixMilli()}
	if n > 0 {
		h.Hash = registry.AuditHash(t[n-1])
	}
	return h
}

func sealed(f *identtest.Fleet, h *seal.AuditHead) []byte {
	b, err := seal.SealAuditHead(h, f.Authority)
	if err != nil {
		panic(err)
	}
	return b
}

// line is a head as a gateway keeps it; cert may be nil.
func line(h *seal.AuditHead, sealed, cert []byte) string {
	m := map[string]any{
		"seq": h.Seq, "hash": hex.EncodeToString(h.Hash[:]), "log_time": time.UnixMilli(h.LogTimeMS).UTC(), "cluster_epoch": h.ClusterEpoch, "sealed": sealed,
	}
	if cert != nil {
		m["authority"] = cert
	}
	b, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return string(b) + "\n"
}

// witness is a gateway's file with the heads after the given numbers of records.
func (t auditTrail) witness(f *identtest.Fleet, at ...int) string {
	text := ""
	for _, n := range at {
		h := t.head(f, n)
		text += line(h, sealed(f, h), f.AuthCert)
	}
	return text
}

func (f *fakeCore) auditRoutes(m *http.ServeMux) {
	m.HandleFunc("GET /v1/audit", func(w http.ResponseWriter, r *http.Request) { page(w, r, f.audit.shown(afterOf(r))) })
	m.HandleFunc("GET /v1/audit/export", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/x-ndjson")
		send(w, string(f.audit.lines(afterOf(r))))
	})
	m.HandleFunc("GET /v1/audit/head", func(w http.ResponseWriter, _ *http.Request) {
		n := len(f.audit)
		own := coreHead{AuditHead: v1.AuditHead{Seq: uint64(n), Hash: fmt.Sprintf("%064x", 0), Time: fakeNow}}
		if n > 0 {
			own.Hash = f.audit.shown(n - 1)[0].Hash
		}
		if f.authority != nil {
			own.Sealed, own.Authority = base64.StdEncoding.EncodeToString(sealed(f.authority, f.audit.head(f.authority, n))), f.authority.AuthCert
		}
		answer(w, 200, own)
	})
}

func afterOf(r *http.Request) int {
	n, err := strconv.Atoi(r.URL.Query().Get("after"))
	if err != nil {
		return 0
	}
	return n
}

func base64Of(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
