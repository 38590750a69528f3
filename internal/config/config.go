// Package config reads configuration files and checks what is the same in all of them.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// DecodeYAML reads one YAML document into v. Keys that v does not have are refused by name, and so is a second document.
func DecodeYAML(b []byte, v any) error {
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(v); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := d.Decode(new(any)); !errors.Is(err, io.EOF) {
		return errors.New("more than one document")
	}
	return nil
}

// CheckAddr tells whether a is host:port with a host that others can dial and a port that exists.
func CheckAddr(a string) error {
	host, port, err := net.SplitHostPort(a)
	if err != nil {
		return fmt.Errorf("%.80q is not host:port", a)
	}
	if host == "" {
		return fmt.Errorf("%.80q has no host: others must be able to reach it", a)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("%.80q: port %.20q is not a number from 0 to 65535", a, port)
	}
	return nil
}
