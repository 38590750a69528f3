package mesh

import (
	"crypto/sha256"
	"net"
	"strconv"
)

// The library insists on an address for each member, and everything here goes by name. So an address is made of the name, in a
// range that nobody routes, and nothing is ever sent to one.
const addrPort = 1

func ipOf(name string) net.IP {
	sum := sha256.Sum256([]byte(name))
	return append(net.IP{0xfd}, sum[:15]...)
}

// A nodeAddr is a gateway's made-up address.
type nodeAddr string

func (nodeAddr) Network() string { return "mesh" }

// String is host:port, as the library parses it.
func (a nodeAddr) String() string {
	return net.JoinHostPort(ipOf(string(a)).String(), strconv.Itoa(addrPort))
}
