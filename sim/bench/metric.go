package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
)

// What a gateway's metrics tell.
var (
	uplinkNode   = regexp.MustCompile(`^holdfast_gateway_uplink_node_info\{.*node="([^"]+)".*\} 1$`)
	spoolRecords = regexp.MustCompile(`^holdfast_gateway_spool_records (\S+)$`)
)

var errNoMetric = errors.New("the gateway does not tell")

// metric is what the first line of the gateway's metrics that matches has for the expression's group.
func (w *world) metric(ctx context.Context, line *regexp.Regexp) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.ops+"/metrics", http.NoBody)
	if err != nil {
		return "", fmt.Errorf("gateway's metrics: %w", err)
	}
	res, err := w.api.Do(req)
	if err != nil {
		return "", fmt.Errorf("gateway's metrics: %w", err)
	}
	defer res.Body.Close() //nolint:errcheck // it was only read
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		if m := line.FindStringSubmatch(lines.Text()); m != nil {
			return m[1], nil
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("gateway's metrics: %w", err)
	}
	return "", fmt.Errorf("%v: %w", line, errNoMetric)
}

// gatewayNode is the place of the core node that the gateway is with.
func (w *world) gatewayNode(ctx context.Context) (int, error) {
	name, err := w.metric(ctx, uplinkNode)
	if err != nil {
		return 0, err
	}
	return w.node(name)
}

// backlog is how many records the gateway has that the core has not answered for.
func (w *world) backlog(ctx context.Context) (int, error) {
	n, err := w.metric(ctx, spoolRecords)
	if err != nil {
		return 0, err
	}
	f, err := strconv.ParseFloat(n, 64)
	if err != nil {
		return 0, fmt.Errorf("gateway's metrics: backlog: %w", err)
	}
	return int(f), nil
}
