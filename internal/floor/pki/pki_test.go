package pki

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
)

func newAuthority(t *testing.T) *Authority {
	t.Helper()
	a, err := New()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// handshake joins both sides over a pipe and returns what either says.
func handshake(t *testing.T, server, device *tls.Config) (seen tls.ConnectionState, serverErr, deviceErr error) {
	t.Helper()
	a, b := net.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s, d := tls.Server(a, server), tls.Client(b, device)
	done := make(chan error, 1)
	go func() {
		err := d.HandshakeContext(ctx)
		if err == nil {
			_, err = d.Read(make([]byte, 1)) // in TLS 1.3 the server's refusal comes after the client's part
		}
		done <- err
	}()
	if serverErr = s.HandshakeContext(ctx); serverErr == nil {
		if _, err := s.Write([]byte{1}); err != nil {
			t.Error(err)
		}
	}
	seen = s.ConnectionState()
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	deviceErr = <-done
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	return seen, serverErr, deviceErr
}

func sides(t *testing.T, a *Authority, i int) (server, device *tls.Config) {
	t.Helper()
	server, err := a.ServerTLS()
	if err != nil {
		t.Fatal(err)
	}
	device, err = a.DeviceTLS(i)
	if err != nil {
		t.Fatal(err)
	}
	return server, device
}

func TestMutualTLS(t *testing.T) {
	server, device := sides(t, newAuthority(t), 17)
	seen, serverErr, deviceErr := handshake(t, server, device)
	if serverErr != nil || deviceErr != nil {
		t.Fatalf("server %v, device %v", serverErr, deviceErr)
	}
	if seen.Version != tls.VersionTLS13 || seen.NegotiatedProtocol != protocol {
		t.Errorf("version %x, protocol %q", seen.Version, seen.NegotiatedProtocol)
	}
	if got := seen.PeerCertificates[0].URIs[0].String(); got != "spiffe://floor.test/device/device-00000017" {
		t.Errorf("device is %s", got)
	}
}

func TestStrangersAreRefused(t *testing.T) {
	server, device := sides(t, newAuthority(t), 1)
	otherServer, otherDevice := sides(t, newAuthority(t), 1)
	var unknown x509.UnknownAuthorityError
	if _, _, err := handshake(t, otherServer, device); !errors.As(err, &unknown) {
		t.Errorf("device accepts a stranger's server: %v", err)
	}
	otherDevice.RootCAs = device.RootCAs
	if _, err, _ := handshake(t, server, otherDevice); !errors.As(err, &unknown) {
		t.Errorf("server accepts a stranger's device: %v", err)
	}
	device.Certificates = nil
	if _, err, _ := handshake(t, server, device); err == nil {
		t.Error("server accepts a device without a certificate")
	}
}

func TestMaterial(t *testing.T) {
	a := newAuthority(t)
	m, err := a.Material()
	if err != nil {
		t.Fatal(err)
	}
	b, err := Load(m)
	if err != nil {
		t.Fatal(err)
	}
	server, _ := sides(t, a, 0)
	_, device := sides(t, b, 0)
	if _, serverErr, deviceErr := handshake(t, server, device); serverErr != nil || deviceErr != nil {
		t.Errorf("server %v, device of the loaded authority %v", serverErr, deviceErr)
	}
	for name, bad := range map[string]Material{
		"empty": {}, "no key": {Root: m.Root}, "no root": {Key: m.Key},
		"cut root": {Root: m.Root[:20], Key: m.Key}, "cut key": {Root: m.Root, Key: m.Key[:20]},
	} {
		if _, err := Load(bad); err == nil {
			t.Errorf("%s: loaded", name)
		}
	}
}

func TestFiles(t *testing.T) {
	a, dir := newAuthority(t), t.TempDir()
	if err := a.WriteDevice(dir, 3); err != nil {
		t.Fatal(err)
	}
	device, err := ReadDevice(dir)
	if err != nil {
		t.Fatal(err)
	}
	server, _ := sides(t, a, 0)
	seen, serverErr, deviceErr := handshake(t, server, device)
	if serverErr != nil || deviceErr != nil {
		t.Fatalf("server %v, device %v", serverErr, deviceErr)
	}
	if got := seen.PeerCertificates[0].Subject.CommonName; got != "device-00000003" {
		t.Errorf("device is %s", got)
	}
	info, err := os.Stat(filepath.Join(dir, keyFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v", info, err)
	}
	if err := a.WriteDevice(filepath.Join(dir, "absent"), 3); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("write into no directory: %v", err)
	}
}

func TestFilesThatAreMissingOrBroken(t *testing.T) {
	a := newAuthority(t)
	for _, name := range []string{rootFile, leafFile, keyFile} {
		dir := t.TempDir()
		if err := a.WriteDevice(dir, 0); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("nonsense"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadDevice(dir); err == nil || (name == rootFile) != errors.Is(err, ErrNoRoot) {
			t.Errorf("broken %s: %v", name, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadDevice(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("missing %s: %v", name, err)
		}
	}
}
