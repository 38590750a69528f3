package api

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/history"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// chain checks that records join on to each other from the one behind seq, and returns the last one's hash.
func chain(t *testing.T, recs []v1.AuditRecord, seq uint64, prev string) string {
	t.Helper()
	for i, r := range recs {
		raw, err := base64.StdEncoding.DecodeString(r.Raw)
		if err != nil {
			t.Fatal(err)
		}
		var a registry.AuditRecord
		if err := wire.Unmarshal(raw, &a); err != nil {
			t.Fatal(err)
		}
		hash := registry.AuditHash(raw)
		if r.Seq != seq+uint64(i)+1 || a.Seq != r.Seq || r.Hash != hex.EncodeToString(hash[:]) || prev != "" && hex.EncodeToString(a.Prev[:]) != prev {
			t.Fatalf("record %d does not join on: %+v", r.Seq, r)
		}
		if a.Actor != r.Actor || a.Action != r.Action || a.Target != r.Target || a.Index != r.Index || a.Outcome != r.Outcome || a.Request != r.Request {
			t.Fatalf("record %d shows other than its bytes: %+v", r.Seq, r)
		}
		prev = r.Hash
	}
	return prev
}

// trailOf makes a trail of n records, some of them several in an entry, with entries between them that make none.
func trailOf(c *core, n uint64) {
	c.t.Helper()
	m := c.enroll(c.token(seal.KindDevice, "plant-7"))
	count := func() uint64 { return c.state.View().Audit().Count } // of the truth, whatever the node shows
	for i := 0; count() < n; i++ {
		switch left := n - count(); {
		case i%3 == 0:
			c.commit(&command.SetTags{By: byAdmin, Device: m.id, Set: map[string]string{"n": fmt.Sprint(i)}})
		case i%3 == 1 && left >= 5:
			c.commit(&command.Refusals{Node: "core-1", Items: make([]command.Refusal, 5)})
		default:
			c.register(m, "plant-7/gw", 0, jetson(fmt.Sprint(i)))
		}
	}
}

const trailLength = 57

func TestAuditList(t *testing.T) {
	c := newCore(t)
	w := c.do(request("PUT", "/v1/sites/plant-9", "{}"))
	trailOf(c, trailLength)
	all := ask[v1.List[v1.AuditRecord]](c, "GET", "/v1/audit?limit=1000", "", http.StatusOK)
	if uint64(len(all.Items)) != trailLength || all.NextCursor != "" {
		t.Fatalf("%d records", len(all.Items))
	}
	head := ask[v1.AuditHead](c, "GET", "/v1/audit/head", "", http.StatusOK)
	if last := chain(t, all.Items, 0, strings.Repeat("0", 64)); last != head.Hash || head.Seq != trailLength || !head.Time.Equal(start) {
		t.Errorf("the trail ends at %s, its head is %+v", last, head)
	}
	set := all.Items[1]
	if set.Actor != "operator:op-1" || set.Action != "site.set" || set.Target != "plant-9" || set.Request != w.Header().Get(requestIDHeader) || set.Request == "" ||
		set.Source != "192.0.2.1" || set.Outcome != "done" || !set.Time.Equal(start) {
		t.Errorf("got %+v", set)
	}
	sealed, err := base64.StdEncoding.DecodeString(head.Sealed)
	if err != nil {
		t.Fatal(err)
	}
	h, err := seal.OpenAuditHead(sealed, authority.Public().(ed25519.PublicKey))
	if err != nil || h.Seq != trailLength || hex.EncodeToString(h.Hash[:]) != head.Hash || h.Fleet != "acme" || h.ClusterEpoch != 1 || h.LogTimeMS != start.UnixMilli() {
		t.Errorf("sealed %+v, %v", h, err)
	}
	// From every place, and in pages, the same records come.
	for after := range uint64(trailLength + 3) {
		got := ask[v1.List[v1.AuditRecord]](c, "GET", fmt.Sprintf("/v1/audit?limit=1000&after=%d", after), "", http.StatusOK).Items
		if uint64(len(got)) != max(trailLength, after)-after {
			t.Fatalf("after %d: %d records", after, len(got))
		}
		chain(t, got, after, "")
		first := ask[v1.List[v1.AuditRecord]](c, "GET", fmt.Sprintf("/v1/audit?limit=1&after=%d", after), "", http.StatusOK)
		if len(first.Items) != min(1, len(got)) || (first.NextCursor != "") != (after+1 < trailLength) {
			t.Errorf("after %d, a page of one has %d records, and the cursor %q", after, len(first.Items), first.NextCursor)
		}
	}
	var paged []v1.AuditRecord
	for cursor := ""; ; {
		page := ask[v1.List[v1.AuditRecord]](c, "GET", "/v1/audit?limit=4&after=9&cursor="+cursor, "", http.StatusOK)
		if paged = append(paged, page.Items...); page.NextCursor == "" {
			break
		}
		cursor = page.NextCursor
	}
	if chain(t, paged, 9, all.Items[8].Hash) != head.Hash {
		t.Error("the pages do not make the whole")
	}
	problem(t, c.do(request("GET", "/v1/audit?after=8&cursor="+ask[v1.List[v1.AuditRecord]](c, "GET", "/v1/audit?limit=4&after=9", "", http.StatusOK).NextCursor, "")), 422)
}

// lines reads an export.
func lines(t *testing.T, body []byte) (out []v1.AuditRecord) {
	t.Helper()
	for line := range bytes.Lines(body) {
		var r v1.AuditRecord
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		out = append(out, r)
	}
	return out
}

func TestAuditExport(t *testing.T) {
	c := newCore(t)
	trailOf(c, 3*exportPage+7)
	w := c.do(request("GET", "/v1/audit/export", ""))
	if w.Code != http.StatusOK || w.Header().Get("Content-Type") != "application/x-ndjson" {
		t.Fatalf("%d %v", w.Code, w.Header())
	}
	head := ask[v1.AuditHead](c, "GET", "/v1/audit/head", "", http.StatusOK)
	all := lines(t, w.Body.Bytes())
	if chain(t, all, 0, strings.Repeat("0", 64)) != head.Hash {
		t.Error("the export is not the trail")
	}
	for _, after := range []uint64{1, exportPage - 1, exportPage, exportPage + 1, head.Seq - 1} {
		part := lines(t, c.do(request("GET", fmt.Sprintf("/v1/audit/export?after=%d", after), "")).Body.Bytes())
		if chain(t, part, after, all[after-1].Hash) != head.Hash {
			t.Errorf("after %d the export does not end at the head", after)
		}
	}
	for _, after := range []string{fmt.Sprint(head.Seq), "18446744073709551615"} {
		if w := c.do(request("GET", "/v1/audit/export?after="+after, "")); w.Code != http.StatusOK || w.Body.Len() != 0 {
			t.Errorf("after %s: %d %s", after, w.Code, w.Body)
		}
	}
	if w := c.do(request(http.MethodHead, "/v1/audit/export", "")); w.Code != http.StatusOK || w.Body.Len() != 0 {
		t.Errorf("HEAD: %d, %d bytes", w.Code, w.Body.Len())
	}
}

// failing is a history of which only the first reads succeed.
type failingHistory struct {
	History
	left int
}

func (f *failingHistory) Read(ctx context.Context, stream history.StreamID, q history.Query) ([]history.Record, history.Cursor, error) {
	if f.left--; f.left < 0 {
		return nil, history.Cursor{}, fmt.Errorf("read history: %w", history.ErrIncomplete)
	}
	return f.History.Read(ctx, stream, q)
}

// An export that cannot go on is cut off, so that nobody takes it for the whole; one that cannot begin says why.
func TestAuditExportThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCore(t)
		trailOf(c, 3*exportPage)
		s := serve(t, c.handler)
		export := func(readable int) (status int, body []byte, err error) {
			c.server.History = &failingHistory{History: c.history, left: readable}
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://core/v1/audit/export", nil)
			if err != nil {
				t.Fatal(err)
			}
			res, err := s.client.Do(as(adminToken, r))
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			b, err := io.ReadAll(res.Body)
			return res.StatusCode, b, err
		}
		if status, body, err := export(0); status != http.StatusServiceUnavailable || err != nil || !bytes.Contains(body, []byte("ask another node")) {
			t.Errorf("%d %s, %v", status, body, err)
		}
		status, body, err := export(2)
		if status != http.StatusOK || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d, %v", status, err)
		}
		whole := lines(t, body[:bytes.LastIndexByte(body, '\n')+1])
		if len(whole) != 2*exportPage {
			t.Errorf("%d lines before the cut", len(whole))
		}
		if n := c.server.streams.count(); n != 0 {
			t.Errorf("%d streams are open", n)
		}
	})
}

// An export ends when its operator's token does; it does not go on for as long as the client reads slowly.
func TestAuditExportOfARevokedOperator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCore(t)
		trailOf(c, 5*exportPage)
		bearer := c.operator("op-2", registry.RoleAdmin)
		s := serve(t, c.handler)
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://core/v1/audit/export", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := s.client.Do(as(bearer, r))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		synctest.Wait() // the server waits for the client to read
		c.commit(&command.RevokeOperator{By: byAdmin, ID: "op-2"})
		b, err := io.ReadAll(res.Body)
		if n := bytes.Count(b, []byte("\n")); !errors.Is(err, io.ErrUnexpectedEOF) || n > 2*exportPage {
			t.Errorf("%d lines came, %v", n, err)
		}
	})
}

// A reader of an export that stops reading is let go.
func TestAuditExportDeadReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCore(t)
		trailOf(c, 3*exportPage)
		conn := serve(t, c.handler).dial(t)
		send(t, conn, "GET /v1/audit/export HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer %s\r\n\r\n", adminToken)
		synctest.Wait()
		if n := c.server.streams.count(); n != 1 {
			t.Fatalf("%d streams", n)
		}
		<-time.After(streamWrite + time.Second) // in the bubble's time
		if n := c.server.streams.count(); n != 0 {
			t.Errorf("%d streams", n)
		}
	})
}

// Nothing newer than the view that answers is shown, though the history has it.
func TestAuditShowsWhatIsInTheView(t *testing.T) {
	c := newCore(t)
	trailOf(c, 20)
	c.stall()
	trailOf(c, 40)
	got := ask[v1.List[v1.AuditRecord]](c, "GET", "/v1/audit?consistency=local", "", http.StatusOK)
	head := ask[v1.AuditHead](c, "GET", "/v1/audit/head?consistency=local", "", http.StatusOK)
	if len(got.Items) != 20 || got.NextCursor != "" || head.Seq != 20 || chain(t, got.Items, 0, "") != head.Hash {
		t.Errorf("%d records, head %+v", len(got.Items), head)
	}
	if got := ask[v1.List[v1.AuditRecord]](c, "GET", "/v1/audit", "", http.StatusOK); len(got.Items) != 40 {
		t.Errorf("%d records after a barrier", len(got.Items))
	}
}

// What is denied is counted, under the operation, the operator and the reason, and comes on the trail in sums.
func TestRefusalsAreAudited(t *testing.T) {
	c := newCore(t)
	c.enroll(c.token(seal.KindDevice, "plant-8"))
	view := c.operator("op-2", registry.RoleViewer, "plant-7")
	gone := c.operator("op-3", registry.RoleViewer)
	c.commit(&command.RevokeOperator{By: byAdmin, ID: "op-3"})
	for range 3 {
		c.do(as(view, request("PUT", "/v1/sites/plant-7", "{}")))
		c.do(as(view, request("GET", "/v1/sites/plant-8", "")))
		c.do(as(view, request("GET", "/v1/cluster", "")))
		c.do(as(gone, request("GET", "/v1/cluster", "")))
		c.do(as("hfo1_x", request("GET", "/v1/cluster", "")))
	}
	flush(c)
	var got []string
	for _, r := range ask[v1.List[v1.AuditRecord]](c, "GET", "/v1/audit?limit=1000", "", http.StatusOK).Items {
		if r.Outcome == "refused" {
			got = append(got, fmt.Sprintf("%s %s %s %s x%s", r.Action, r.Actor, r.Source, r.Detail["reason"], r.Detail["count"]))
		}
	}
	want := []string{
		"authenticate  192.0.2.1 unknown token x3", "authenticate operator:op-3 192.0.2.1 revoked x3", "get-cluster operator:op-2 192.0.2.1 site x3",
		"get-site operator:op-2 192.0.2.1 site x3", "set-site operator:op-2 192.0.2.1 role x3",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	o := ask[v1.Operator](c, "GET", "/v1/operators/op-1", "", http.StatusOK)
	if o.LastUsedAt != nil {
		t.Errorf("used at %v before the first flush", o.LastUsedAt)
	}
	flush(c)
	o = ask[v1.Operator](c, "GET", "/v1/operators/op-1", "", http.StatusOK)
	if o.LastUsedAt == nil || !o.LastUsedAt.Equal(start) || o.LastUsedFrom != "192.0.2.1" {
		t.Errorf("got %+v", o)
	}
	if o := ask[v1.Operator](c, "GET", "/v1/operators/op-2", "", http.StatusOK); o.LastUsedAt != nil {
		t.Errorf("whose requests were all denied was used: %+v", o)
	}
}

// flush lets the book propose what is in it.
func flush(c *core) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	c.book.Run(ctx, c.Propose, "core-1")
}
