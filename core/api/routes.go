package api

import (
	"net/http"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/content/pack"
)

// routes is the table of all routes: what each is, and what it takes to use it. docs/api.md shows it; a test compares.
func (s *server) routes() {
	const get, post, put, patch, del = http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete

	add(s, on(get, "/v1/devices", "list-devices", "List devices in order of id"), see(whatISee), s.listDevices)
	add(s, on(get, "/v1/devices/{id}", "get-device", "One device").missable().has(), see(theDevice), s.getDevice)
	add(s, on(patch, "/v1/devices/{id}", "set-device", "Change a device's settings").missable().has(), operate(theDevice), s.setDevice)
	add(s, on(patch, "/v1/devices/{id}/tags", "set-tags", "Change the operators' tags of a device").missable().has(), operate(theDevice), s.setTags)
	add(s, on(post, "/v1/devices/{id}/release", "release-device", "End a device's quarantine").missable().has(), operate(theDevice), s.releaseDevice)
	add(s, on(get, "/v1/devices/{id}/history", "list-history", "What a device stated, in the order in which it did").missable().says(historyText), see(theDevice), s.listHistory)
	add(s, on(get, "/v1/devices/{id}/presence", "list-presence", "When a device was online").missable().says(presenceText), see(theDevice), s.listPresence)

	add(s, on(get, "/v1/devices/{id}/explain", "explain-device", "What a device is to run, where that is, and what it waits for").missable().
		says(explainText), see(theDevice), s.explainDevice)
	add(s, on(put, "/v1/devices/{id}/slots/{slot}", "set-slot", "Assign an artifact to a slot of a device").missable().has(), operate(theDevice), s.setSlot)
	add(s, on(del, "/v1/devices/{id}/slots/{slot}", "unset-slot", "Let a slot of a device run nothing").missable().has(), operate(theDevice), s.unsetSlot)
	add(s, on(post, "/v1/devices/{id}/slots/{slot}/retry", "retry-slot", "Try again what failed in a slot").missable().has(), operate(theDevice), s.retrySlot)

	add(s, on(get, "/v1/artifacts", "list-artifacts", "List artifacts in order of name and number"), see(whatISee), s.listArtifacts)
	add(s, on(get, "/v1/artifacts/{id}", "get-artifact", "One artifact").missable().has(), see(whatISee), s.getArtifact)
	add(s, on(post, "/v1/artifacts", "add-artifact", "Make an artifact known").says(addText).makes().within(clusterTime), operate(theFleet), s.addArtifact)
	add(s, on(del, "/v1/artifacts/{id}", "delete-artifact", "Forget an artifact that is assigned to no device").missable().has(), operate(theFleet), s.deleteArtifact)
	add(s, on(get, "/v1/publishers", "list-publishers", "List the sets of publishers in order of number").says(publishersText), see(whatISee), s.listPublishers)
	add(s, on(post, "/v1/publishers", "set-publishers", "Take in the next set of publishers").says(publishersText).makes(), administer(theFleet), s.setPublishers)

	add(s, on(post, "/v1/content/missing", "ask-content", "Ask which chunks the core lacks").says(contentText).upload(maxAsk), operate(theFleet), s.askContent)
	add(s, on(post, "/v1/content", "put-content", "Send chunks").says(contentText+" "+packText).upload(pack.Max).full(), operate(theFleet), s.putContent)

	add(s, on(get, "/v1/tokens", "list-tokens", "List enrollment tokens in order of id"), see(whatISee), s.listTokens)
	add(s, on(post, "/v1/tokens", "create-token", "Make an enrollment token").makes(), operate(newToken), s.createToken)
	add(s, on(get, "/v1/tokens/{id}", "get-token", "One enrollment token").missable(), see(theToken), s.getToken)
	add(s, on(del, "/v1/tokens/{id}", "revoke-token", "Revoke an enrollment token").missable(), operate(theToken), s.revokeToken)

	add(s, on(get, "/v1/sites", "list-sites", "List sites in order of name"), see(whatISee), s.listSites)
	add(s, on(get, "/v1/sites/{name}", "get-site", "One site").missable().has(), see(theSite), s.getSite)
	add(s, on(put, "/v1/sites/{name}", "set-site", "Make or change a site").missable().has(), operate(theSite), s.setSite)
	add(s, on(get, "/v1/gateways", "list-gateways", "List gateways in order of site and name"), see(whatISee), s.listGateways)
	add(s, on(get, "/v1/gateways/{site}/{name}", "get-gateway", "One gateway").missable().has(), see(theGateway), s.getGateway)
	add(s, on(post, "/v1/gateways/{site}/{name}/revoke", "revoke-gateway", "End a gateway for good").says(revokeText).missable().has(),
		administer(theGateway), s.revokeGateway)

	add(s, on(get, "/v1/operators", "list-operators", "List operators in order of id"), administer(theFleet), s.listOperators)
	add(s, on(post, "/v1/operators", "create-operator", "Give somebody a token for this API").makes(), administer(theFleet), s.createOperator)
	add(s, on(get, "/v1/operators/{id}", "get-operator", "One operator").missable(), administer(theFleet), s.getOperator)
	add(s, on(del, "/v1/operators/{id}", "revoke-operator", "Revoke an operator's token").missable(), administer(theFleet), s.revokeOperator)

	add(s, on(get, "/v1/audit", "list-audit", "Who did what, in the order in which it was done").says(auditText), administer(theFleet), s.listAudit)
	add(s, on(get, "/v1/audit/head", "get-audit-head", "How far the audit trail has come, signed"), administer(theFleet), s.auditHead)
	add(s, on(get, "/v1/audit/export", "export-audit", "The audit trail as lines of JSON").says(exportText).endless().
		answers("application/x-ndjson", "each line is an AuditRecord", model[v1.AuditRecord](s, "AuditRecord")), administer(theFleet), s.exportAudit)

	add(s, on(get, "/v1/events", "events", "Events as they are committed").says(eventsText).here().endless().
		answers("text/event-stream", "the data of each event is an Event", model[v1.Event](s, "Event")), see(whatISee), s.events)

	add(s, on(get, "/v1/whoami", "whoami", "Whom the token speaks for").here(), see(whatISee), s.whoami)
	add(s, on(get, "/v1/cluster", "get-cluster", "The core as this node knows it").here(), see(theFleet), s.getCluster)
	add(s, on(del, "/v1/cluster/nodes/{name}", "remove-node", "End a core node's membership").says(removeText).missable().within(clusterTime),
		administer(theFleet), s.removeNode)
	add(s, on(post, "/v1/cluster/snapshot", "make-snapshot", "Make the node that answers write a snapshot of its state").within(clusterTime),
		administer(theFleet), s.makeSnapshot)
	add(s, on(post, "/v1/cluster/transfer-leadership", "transfer-leadership", "Make another core node lead").within(clusterTime),
		administer(theFleet), s.transferLeadership)

	add(s, on(get, "/metrics", "metrics", "The node's metrics, for Prometheus").here().
		answers("text/plain", "text in the exposition format", textSchema), see(theFleet), s.showMetrics)
	add(s, on(get, "/healthz", "healthz", "Whether the process runs").here(), public(), s.healthz)
	add(s, on(get, "/readyz", "readyz", "Whether this node can serve").here(), public(), s.readyz)
	add(s, on(get, specPath, "openapi", "This document").here().
		answers("application/json", http.StatusText(http.StatusOK), objectSchema), public(), s.showSpec)
}
