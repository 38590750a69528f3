// Package mesh lets the gateways of a site know of one another: who is there, and who has a working uplink.
package mesh
