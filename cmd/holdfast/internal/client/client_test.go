package client

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

// A transportFunc is a network of one function.
type transportFunc func(*http.Request) (*http.Response, error)

func (f transportFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func response(status int, body string, header ...string) *http.Response {
	h := http.Header{}
	for i := 0; i+1 < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body))}
}

// over is a client whose network is f.
func over(f transportFunc) *Client {
	return New(Config{URLs: []*url.URL{{Scheme: "https", Host: "core:1"}}, Token: "secret", Agent: "test", Transport: f})
}

// to is a client of a real server.
func to(t *testing.T, srv *httptest.Server) *Client {
	t.Helper()
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	c := New(Config{URLs: []*url.URL{u}, Roots: roots, Token: "secret", Agent: "test"})
	t.Cleanup(c.Close)
	return c
}

func serve(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	srv := httptest.NewTLSServer(h)
	t.Cleanup(srv.Close)
	return to(t, srv)
}

func send(t *testing.T, w io.Writer, text string) {
	t.Helper()
	if _, err := io.WriteString(w, text); err != nil {
		t.Error(err)
	}
}

func TestRequest(t *testing.T) {
	type thing struct{ Name string }
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.TLS.Version != tls.VersionTLS13 {
			t.Errorf("TLS version %x", r.TLS.Version)
		}
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		send(t, w, fmt.Sprintf(`{"Name":%q,"more":1}`, strings.Join([]string{
			r.Method, r.URL.EscapedPath(), r.URL.RawQuery, r.Header.Get("Authorization"), r.Header.Get("User-Agent"), r.Header.Get("Content-Type"), string(b),
		}, "|")))
	})
	got, err := Get[thing](t.Context(), c, Path("v1", "a/b?", ".."), url.Values{"q": {"x y&z"}})
	if want := "GET|/v1/a%2Fb%3F/..|q=x+y%26z|Bearer secret|test||"; err != nil || got.Name != want {
		t.Errorf("got %q, %v; want %q", got.Name, err, want)
	}
	got, err = Send[thing](t.Context(), c, http.MethodPut, "/v1/x", thing{"n"})
	if want := `PUT|/v1/x||Bearer secret|test|application/json|{"Name":"n"}`; err != nil || got.Name != want {
		t.Errorf("got %q, %v; want %q", got.Name, err, want)
	}
}

func TestOnlyTheGivenCA(t *testing.T) {
	srv := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(srv.Close)
	srv.Config.ErrorLog = nil
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	c := New(Config{URLs: []*url.URL{u}, Roots: x509.NewCertPool(), Token: "secret"})
	t.Cleanup(c.Close)
	if _, err := Get[v1.Whoami](t.Context(), c, "/v1/whoami", nil); !errors.Is(err, ErrUntrusted) {
		t.Errorf("without the server's CA: %v", err)
	}
}

func TestNoOldTLS(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.TLS = &tls.Config{MaxVersion: tls.VersionTLS12}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	if _, err := Get[v1.Whoami](t.Context(), to(t, srv), "/v1/whoami", nil); !errors.Is(err, ErrUnreachable) {
		t.Errorf("TLS 1.2: %v", err)
	}
}

// The token must not follow a redirect to where nobody sent it.
func TestNoRedirect(t *testing.T) {
	n := 0
	c := over(func(*http.Request) (*http.Response, error) {
		n++
		return response(307, "", "Location", "https://elsewhere/"), nil
	})
	if _, err := Get[v1.Whoami](t.Context(), c, "/v1/whoami", nil); !errors.Is(err, ErrRefused) || n != 1 {
		t.Errorf("%d requests, %v", n, err)
	}
}

func TestAnswers(t *testing.T) {
	for name, tc := range map[string]struct {
		status int
		body   string
		want   error
	}{
		"not JSON":     {200, "<html>", ErrAnswer},
		"empty":        {200, "", ErrAnswer},
		"wrong type":   {200, `{"operator":1}`, ErrAnswer},
		"too long":     {200, "{}" + strings.Repeat(" ", maxAnswer), ErrAnswer},
		"refusal":      {404, `{"title":"Not Found"}`, ErrNotFound},
		"no document":  {404, "<html>", ErrNotFound},
		"long refusal": {404, strings.Repeat(" ", maxProblem+1), ErrNotFound},
		"strange":      {418, "", ErrRefused},
	} {
		c := over(func(*http.Request) (*http.Response, error) { return response(tc.status, tc.body), nil })
		if _, err := Get[v1.Whoami](t.Context(), c, "/v1/whoami", nil); !errors.Is(err, tc.want) {
			t.Errorf("%s: %.200v, want %v", name, err, tc.want)
		}
	}
}

func TestProblemText(t *testing.T) {
	for body, want := range map[string]string{
		`{"title":"T","detail":"d"}`: "d",
		`{"title":"T"}`:              "T",
		`{}`:                         "422 Unprocessable Entity",
		`{"detail":"body.a: is bad","errors":[{"location":"body.a","message":"is bad"},{"message":"and more"}]}`: "body.a: is bad, and more",
		`{"detail":"validation failed","errors":[{"location":"body.a","message":"is bad"}]}`:                     "validation failed, body.a: is bad",
	} {
		c := over(func(*http.Request) (*http.Response, error) { return response(422, body), nil })
		_, err := Get[v1.Whoami](t.Context(), c, "/", nil)
		if err == nil || err.Error() != want {
			t.Errorf("%s reads %q, want %q", body, err, want)
		}
	}
}

func TestNow(t *testing.T) {
	c := over(func(*http.Request) (*http.Response, error) {
		return response(200, "{}", "Date", "Fri, 01 May 2026 10:00:00 GMT"), nil
	})
	if d := time.Since(c.Now()); d < 0 || d > time.Minute {
		t.Errorf("before the first answer it is off by %v", d)
	}
	if _, err := Get[v1.Whoami](t.Context(), c, "/", nil); err != nil {
		t.Fatal(err)
	}
	if want := time.Date(2026, 5, 1, 10, 0, 0, 0, time.UTC); !c.Now().Equal(want) {
		t.Errorf("it is %v, want %v", c.Now(), want)
	}
}

func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := over(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		start := time.Now()
		_, err := Get[v1.Whoami](t.Context(), c, "/", nil)
		if !errors.Is(err, ErrUnreachable) || time.Since(start) != requestTime {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}
