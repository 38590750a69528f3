// Package ident holds the typed identities of a fleet, the certificate profiles that carry them, and the one builder
// of every tls.Config in the product.
//
// An identity is a SPIFFE id in the single URI SAN of a leaf certificate that verifies to the fleet's root. Nothing
// else in a certificate, and nothing in a message, says who a peer is.
package ident

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// A Role says what kind of peer a certificate speaks for. It decides which ports the certificate opens.
type Role string

// The roles. RoleAPI certifies the operators' HTTPS listener and opens no port of the fleet's own links. RoleAuthority
// certifies the key that signs orders and receipts, which never opens a connection.
const (
	RoleDevice    Role = "device"
	RoleGateway   Role = "gateway"
	RoleCore      Role = "core"
	RoleAPI       Role = "api"
	RoleAuthority Role = "authority"
)

// Roles that have an issuing CA of their own, in a fixed order.
func Roles() []Role { return []Role{RoleDevice, RoleGateway, RoleCore, RoleAPI} }

// ErrID is the sentinel of every identity that does not parse.
var ErrID = errors.New("not a fleet identity")

// A DeviceID is the stable id of a device's record: a UUID (RFC 9562), given by the core at enrollment. It outlives
// the device's keys.
type DeviceID [16]byte

// NewDeviceID makes a random (version 4) id.
func NewDeviceID() DeviceID {
	var d DeviceID
	rand.Read(d[:]) // crypto/rand.Read never fails
	d[6] = d[6]&0x0f | 0x40
	d[8] = d[8]&0x3f | 0x80
	return d
}

// String is the canonical lower-case UUID form.
func (d DeviceID) String() string {
	h := hex.EncodeToString(d[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// IsZero tells whether d is no id at all.
func (d DeviceID) IsZero() bool { return d == DeviceID{} }

// ParseDeviceID reads the form that String writes, and nothing else.
func ParseDeviceID(s string) (DeviceID, error) {
	var d DeviceID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return d, fmt.Errorf("device id %q is not a UUID: %w", clip(s), ErrID)
	}
	if _, err := hex.Decode(d[:], []byte(strings.ReplaceAll(s, "-", ""))); err != nil || d.String() != s {
		return DeviceID{}, fmt.Errorf("device id %q is not a lower-case UUID: %w", clip(s), ErrID)
	}
	return d, nil
}

// UnmarshalCBOR reads a byte string of exactly 16 bytes. The codec alone would fill up a shorter one with zeros and cut a
// longer one, so that several inputs were the same device.
func (d *DeviceID) UnmarshalCBOR(b []byte) error {
	if len(b) != 1+len(d) || b[0] != 0x40|byte(len(d)) {
		return fmt.Errorf("device id is no byte string of %d bytes: %w", len(d), ErrID)
	}
	copy(d[:], b[1:])
	return nil
}

// A KeyID names a public key: the SHA-256 of its SubjectPublicKeyInfo.
type KeyID [32]byte

// UnmarshalCBOR reads a byte string of exactly 32 bytes, as DeviceID does of 16.
func (k *KeyID) UnmarshalCBOR(b []byte) error {
	if len(b) != 2+len(k) || b[0] != 0x58 || b[1] != byte(len(k)) {
		return fmt.Errorf("key id is no byte string of %d bytes: %w", len(k), ErrID)
	}
	copy(k[:], b[2:])
	return nil
}

// KeyIDOf is the id of the key in cert.
func KeyIDOf(cert *x509.Certificate) KeyID { return sha256.Sum256(cert.RawSubjectPublicKeyInfo) }

// KeyIDOfSPKI is the id of a DER-encoded SubjectPublicKeyInfo.
func KeyIDOfSPKI(spki []byte) KeyID { return sha256.Sum256(spki) }

// String is the id in lower-case hex.
func (k KeyID) String() string { return hex.EncodeToString(k[:]) }

// IsZero tells whether k names no key.
func (k KeyID) IsZero() bool { return k == KeyID{} }

var (
	nameRE  = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	fleetRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)
)

// CheckName tells whether s may name a site, a gateway or a core node: 1 to 63 of a-z, 0-9 and '-', neither first nor
// last a '-'. what names the thing in the error.
func CheckName(what, s string) error {
	if !nameRE.MatchString(s) {
		return fmt.Errorf("%s %q: use 1 to 63 of a-z, 0-9 and '-', starting and ending with a letter or digit: %w", what, clip(s), ErrID)
	}
	return nil
}

// CheckFleet tells whether s may name a fleet, which is the SPIFFE trust domain: as CheckName, and '.' is allowed inside.
func CheckFleet(s string) error {
	if !fleetRE.MatchString(s) {
		return fmt.Errorf("fleet %q: use 1 to 63 of a-z, 0-9, '.' and '-', starting and ending with a letter or digit: %w", clip(s), ErrID)
	}
	return nil
}

// An ID is a parsed SPIFFE id. Exactly the fields of its role are set.
type ID struct {
	Fleet  string   // the trust domain
	Role   Role     //
	Device DeviceID // RoleDevice
	Site   string   // RoleGateway
	Name   string   // RoleGateway, RoleCore, RoleAPI
}

// Device is the identity of a device in fleet.
func Device(fleet string, d DeviceID) ID { return ID{Fleet: fleet, Role: RoleDevice, Device: d} }

// Gateway is the identity of a gateway of a site in fleet.
func Gateway(fleet, site, name string) ID {
	return ID{Fleet: fleet, Role: RoleGateway, Site: site, Name: name}
}

// Core is the identity of a core node in fleet.
func Core(fleet, name string) ID { return ID{Fleet: fleet, Role: RoleCore, Name: name} }

// API is the identity of a core node's operators' API in fleet.
func API(fleet, name string) ID { return ID{Fleet: fleet, Role: RoleAPI, Name: name} }

// Authority is the identity of the key that signs the orders and receipts of fleet.
func Authority(fleet string) ID { return ID{Fleet: fleet, Role: RoleAuthority} }

// String is the SPIFFE id.
func (i ID) String() string {
	p := "spiffe://" + i.Fleet + "/" + string(i.Role)
	switch i.Role {
	case RoleDevice:
		return p + "/" + i.Device.String()
	case RoleGateway:
		return p + "/" + i.Site + "/" + i.Name
	case RoleCore, RoleAPI:
		return p + "/" + i.Name
	case RoleAuthority:
		return p
	}
	return p
}

// URL is the SPIFFE id as a URI SAN.
func (i ID) URL() *url.URL {
	return &url.URL{Scheme: "spiffe", Host: i.Fleet, Path: strings.TrimPrefix(i.String(), "spiffe://"+i.Fleet)}
}

// Parse reads a SPIFFE id of the fleet, in exactly the form that String writes.
func Parse(s string) (ID, error) {
	rest, ok := strings.CutPrefix(s, "spiffe://")
	if !ok || len(s) > 512 {
		return ID{}, fmt.Errorf("%q is no SPIFFE id: %w", clip(s), ErrID)
	}
	f := strings.Split(rest, "/")
	if len(f) < 2 {
		return ID{}, fmt.Errorf("%q has no role: %w", clip(s), ErrID)
	}
	if err := CheckFleet(f[0]); err != nil {
		return ID{}, err
	}
	i := ID{Fleet: f[0], Role: Role(f[1])}
	switch {
	case i.Role == RoleDevice && len(f) == 3:
		d, err := ParseDeviceID(f[2])
		if err != nil {
			return ID{}, err
		}
		i.Device = d
	case i.Role == RoleGateway && len(f) == 4:
		i.Site, i.Name = f[2], f[3]
		if err := errors.Join(CheckName("site", i.Site), CheckName("gateway", i.Name)); err != nil {
			return ID{}, err
		}
	case (i.Role == RoleCore || i.Role == RoleAPI) && len(f) == 3:
		i.Name = f[2]
		if err := CheckName("core node", i.Name); err != nil {
			return ID{}, err
		}
	case i.Role == RoleAuthority && len(f) == 2:
	default:
		return ID{}, fmt.Errorf("%q names no known role: %w", clip(s), ErrID)
	}
	return i, nil
}

// FromCert reads the identity of a leaf certificate: its one URI SAN. A certificate with more or fewer has none.
func FromCert(c *x509.Certificate) (ID, error) {
	if len(c.URIs) != 1 {
		return ID{}, fmt.Errorf("certificate has %d URI SANs, want one SPIFFE id: %w", len(c.URIs), ErrID)
	}
	return Parse(c.URIs[0].String())
}

// clip keeps error texts short, whatever a peer sent.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

// IsZero tells whether i is no identity.
func (i ID) IsZero() bool { return i == ID{} }
