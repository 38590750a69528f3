package api

import (
	"bytes"
	"encoding/json"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/history"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

func TestUnmarshal(t *testing.T) {
	good := []string{
		`{}`, ` [1,"a",{"b":null}] `, `"x"`, `true`, `{"a/b":{"c":[[[[[[]]]]]]}}`, `"\u00e4\ud83d\ude00"`, strings.Repeat("[", maxDepth) + strings.Repeat("]", maxDepth),
	}
	for _, b := range good {
		var got, want any
		if err := unmarshal([]byte(b), &got); err != nil {
			t.Errorf("%s: %v", b, err)
		}
		if err := json.Unmarshal([]byte(b), &want); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %v, want %v, %v", b, got, want, err)
		}
	}
	for _, b := range []string{
		``, `{`, `{"a"`, `{"a":`, `{"a":1`, `{"a":1,}`, `[1,]`, `[`, `{a:1}`, `{1:2}`, `'x'`, `{} x`, `1 2`, `{"a":1,"a":2}`, `{"b":{"a":1,"a":2}}`, `{"A":1}`,
		`{"ä":1}`, `{"\u004b":1}`, `{"k":1,"\u212a":2}`, `"\ud800"`, `["\ude00"]`, "\"\xff\"", `NaN`, `01`, `1e999`, strings.Repeat("[", maxDepth+1) + strings.Repeat("]", maxDepth+1),
	} {
		var got any
		if err := unmarshal([]byte(b), &got); err == nil {
			t.Errorf("%s was taken as %v", b, got)
		}
	}
}

func TestCursorsRoundTrip(t *testing.T) {
	l := listOf("devices", "a", "b")
	id := ident.NewDeviceID()
	if got, err := l.devicePosition(l.deviceCursor(id)); err != nil || got != id {
		t.Errorf("got %v, %v", got, err)
	}
	at := history.Cursor{Index: 1<<63 + 5, N: 7}
	if got, err := l.historyPosition(l.historyCursor(at)); err != nil || got != at {
		t.Errorf("got %v, %v", got, err)
	}
	if l.historyCursor(history.Cursor{}) != "" {
		t.Error("the end has a cursor")
	}
	if _, err := l.historyPosition(l.deviceCursor(id)); err == nil {
		t.Error("a position of another length is taken")
	}
	if _, err := l.historyPosition(l.cursor(make([]byte, 12))); err == nil {
		t.Error("a position before everything is taken")
	}
	if listOf("a", "b") == listOf("ab") || listOf("a", "") == listOf("a") {
		t.Error("different lists have the same name")
	}
	text := []byte(l.deviceCursor(id))
	last := text[len(text)-1]
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") {
		text[len(text)-1] = c
		if _, err := l.devicePosition(string(text)); (err == nil) != (c == last) {
			t.Errorf("%s: %v", text, err)
		}
	}
	text[len(text)-1] = last
	for i := range text {
		bad := bytes.Clone(text)
		bad[i] ^= 1
		if got, err := l.devicePosition(string(bad)); err == nil {
			t.Errorf("%s is taken as %v", bad, got)
		}
		if got, err := l.devicePosition(string(text[:i])); err == nil && i > 0 {
			t.Errorf("%s is taken as %v", text[:i], got)
		}
	}
}

func FuzzCursor(f *testing.F) {
	l := listOf("devices", "plant-7")
	f.Add("")
	f.Add(l.deviceCursor(ident.DeviceID{1}))
	f.Add(l.historyCursor(history.Cursor{Index: 1, N: 2}))
	f.Add("AQ")
	f.Add(strings.Repeat("A", maxCursor+4))
	f.Fuzz(func(t *testing.T, text string) {
		if text == "" {
			return
		}
		if id, err := l.devicePosition(text); err == nil && l.deviceCursor(id) != text {
			t.Errorf("%q is a second form of %v", text, id)
		}
		if c, err := l.historyPosition(text); err == nil && l.historyCursor(c) != text {
			t.Errorf("%q is a second form of %v", text, c)
		}
		if _, err := parsePlace("query.after", text); err != nil {
			problemOf(t, err)
		}
	})
}

// problemOf checks that an error can be answered with.
func problemOf(t *testing.T, err error) {
	t.Helper()
	var out bytes.Buffer
	if e := json.NewEncoder(&out).Encode(err); e != nil || out.Len() > 4<<10 {
		t.Errorf("problem of %d bytes: %v", out.Len(), e)
	}
}

// Whatever comes as a body, the answer is a token that is as asked for, or a problem after which nothing has changed.
func FuzzCreateToken(f *testing.F) {
	for _, b := range []string{
		`{"kind":"device","site":"plant-7"}`, `{"kind":"gateway","site":"a","ttl":"720h","uses":10000,"comment":"x"}`,
		`{"kind":"device","site":"a","tags":{"a":"b","c/d":"ü"}}`, `{"kind":"core"}`, `{"kind":"device","site":"a","uses":1e3}`, `[]`, `{`, "\xff", `{"a":{"b":[{}]}}`,
	} {
		f.Add([]byte(b))
	}
	c := newCore(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) == 0 {
			return
		}
		before := c.View().Index()
		w := c.do(request(http.MethodPost, "/v1/tokens", string(body)))
		if w.Code == http.StatusCreated {
			made := read[v1.NewToken](t, w, http.StatusCreated)
			var asked v1.CreateToken
			if err := json.Unmarshal(body, &asked); err != nil {
				t.Fatal(err)
			}
			r := made.Record
			if r.Kind != asked.Kind || r.Site != asked.Site || r.Comment != asked.Comment || len(r.Tags) != len(asked.Tags) || (ident.CheckName("site", r.Site) == nil) == (r.Kind == "core") {
				t.Errorf("asked for %+v, got %+v", asked, r)
			}
			if ttl := r.ExpiresAt.Sub(r.CreatedAt); ttl < minTTL || ttl > maxTTL || r.Uses < 1 || r.Uses > 10_000 ||
				seal.Kind(r.Kind) == seal.KindCore && (ttl > coreTTL || r.Uses != 1) {
				t.Errorf("got %+v", r)
			}
			return
		}
		if w.Code >= http.StatusInternalServerError {
			t.Errorf("status %d: %s", w.Code, w.Body)
		}
		problem(t, w, w.Code)
		if got := c.View().Index(); got != before {
			t.Errorf("the state's index went from %d to %d", before, got)
		}
	})
}
