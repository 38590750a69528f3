package core

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-edge/holdfast/core/registry"
)

// metrics tells of this node and of the fleet as this node knows it, when it is asked.
type metrics struct{ c *Core }

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("holdfast_core_"+name, help, labels, nil)
}

var (
	descLeader    = describe("leader", "1 while this node leads the core.")
	descTerm      = describe("raft_term", "Election term.")
	descCommitted = describe("raft_commit_index", "Log index up to which this node knows everything to be committed.")
	descApplied   = describe("raft_applied_index", "Log index up to which this node has applied the log.")
	descMembers   = describe("raft_members", "Members of the core, by whether they vote.", "voter")
	descCatching  = describe("history_catching_up", "1 while this node fetches history that it lacks.")
	descDevices   = describe("devices", "Device records.")
	descGateways  = describe("gateways_connected", "Gateways that are heard, by any core node.")
	descUnreached = describe("sites_unreachable", "Sites all of whose gateways are silent.")
	descAudit     = describe("audit_records", "Records on the audit trail.")
	descRefused   = describe("enrollments_refused", "Enrollments that this node refused since it started.")
	descChunks    = describe("content_chunks", "Chunks of artifacts that this node holds.")
	descContent   = describe("content_bytes", "Bytes that chunks take on this node's disk.")
	descQuota     = describe("content_quota_bytes", "Bytes that chunks may take on this node's disk.")
	descLacking   = describe("content_missing", "Chunks of known artifacts that this node lacks, as of its last look.")
	descDamaged   = describe("content_damaged", "Chunks that this node found to be damaged since it started.")
	descFetched   = describe("content_fetched", "Chunks that this node got from other nodes since it started.")
	descDoubted   = describe("gateway_doubts", "What gateways said to this node, since it started, that cannot be.")
)

// Describe implements prometheus.Collector.
func (m metrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descLeader, descTerm, descCommitted, descApplied, descMembers, descCatching, descDevices, descGateways, descUnreached, descAudit, descRefused, descDoubted,
		descChunks, descContent, descQuota, descLacking, descDamaged, descFetched,
	} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (m metrics) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	st, v, now := m.c.store.raft.Status(), m.c.store.View(), time.Now()
	l, _ := m.c.store.raft.Leadership()
	gauge(descLeader, truth(l.Leader))
	gauge(descTerm, float64(st.Term))
	gauge(descCommitted, float64(st.CommitIndex))
	gauge(descApplied, float64(st.AppliedIndex))
	votes := 0
	for i := range st.Nodes {
		if st.Nodes[i].Voter {
			votes++
		}
	}
	gauge(descMembers, float64(votes), "true")
	gauge(descMembers, float64(len(st.Nodes)-votes), "false")
	_, _, _, gap := m.c.store.history.Missing()
	gauge(descCatching, truth(gap))
	gauge(descDevices, float64(v.DeviceCount()))
	connected, unreachable := 0, 0
	v.Gateways(func(g *registry.Gateway) bool {
		if _, heard := m.c.tracker.LastHeard(g.ID(), now); heard {
			connected++
		}
		return true
	})
	v.Sites(func(s *registry.Site) bool {
		if s.UnreachableMS != 0 {
			unreachable++
		}
		return true
	})
	gauge(descGateways, float64(connected))
	gauge(descUnreached, float64(unreachable))
	gauge(descAudit, float64(v.Audit().Count))
	content := m.c.content.Stats()
	gauge(descChunks, float64(content.Chunks))
	gauge(descContent, float64(content.Bytes))
	gauge(descQuota, float64(content.Quota))
	gauge(descLacking, float64(content.Missing))
	out <- prometheus.MustNewConstMetric(descDamaged, prometheus.CounterValue, float64(content.Damaged))
	out <- prometheus.MustNewConstMetric(descFetched, prometheus.CounterValue, float64(content.Fetched))
	out <- prometheus.MustNewConstMetric(descRefused, prometheus.CounterValue, float64(m.c.enroll.Refused()))
	out <- prometheus.MustNewConstMetric(descDoubted, prometheus.CounterValue, float64(m.c.sites.Doubted()))
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
