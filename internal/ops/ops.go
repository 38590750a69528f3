// Package ops serves what operators of a daemon watch it by: metrics and health.
package ops

import (
	_ "github.com/prometheus/client_golang/prometheus"
	_ "github.com/prometheus/client_golang/prometheus/collectors"
	_ "github.com/prometheus/client_golang/prometheus/promhttp"
	_ "golang.org/x/net/netutil"
)
