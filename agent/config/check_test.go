package config

import (
	"strings"
	"testing"
)

// own is a certificate that is right, for what is put after it.
const own = "certificates:\n- name: a\n  signerName: example.com/a\n  directory: /a\n"

func TestCluster(t *testing.T) {
	wantMistakes(t, []badFile{
		{"servers", "cluster:\n  servers:\n  - http://a\n  - https://me@a\n  - a/b\n  - https://a/b\n  - a:0\n  - a:70000\n  - _\n", []string{
			`3: cluster.servers[0]: the API server "http://a" is not an https URL`,
			`4: cluster.servers[1]: the API server's URL has user information in it`,
			`5: cluster.servers[2]: the API server "a/b" has no valid host name or IP address`,
			`6: cluster.servers[3]: the API server "https://a/b" has a path, which is not supported`,
			`7: cluster.servers[4]: the API server "a:0" has the port "0": it is not between 1 and 65535`,
			`8: cluster.servers[5]: the API server "a:70000" has the port "70000": it is not between 1 and 65535`,
			`9: cluster.servers[6]: the API server "_" has no valid host name or IP address`,
		}},
		{"one server in two forms", "cluster:\n  servers: [a, b, A:6443]\n", []string{"2: cluster.servers[2]: this is the same server as cluster.servers[0]"}},
		{"server name", "cluster: {tlsServerName: a_b}\n", []string{`1: cluster.tlsServerName: the TLS server name "a_b" is not a DNS name`}},
		{"proxy", "cluster: {proxyURL: \"https://a\"}\n", []string{"1: cluster.proxyURL: the proxy's URL is not one: give it as http://HOST:PORT or socks5://HOST:PORT"}},
		{"hashes", "cluster:\n  caCertHashes:\n  - 00ff\n  - sha1:00\n  - sha256:zz\n  - sha256:00\n  - " + testPin + "\n  - " + strings.ToUpper(testPin[7:]) + "\n", []string{
			`3: cluster.caCertHashes[0]: the CA certificate hash does not begin with "sha256:"`,
			`4: cluster.caCertHashes[1]: the CA certificate hash "sha1:00" is of kind "sha1": only "sha256" is known`,
			`5: cluster.caCertHashes[2]: the CA certificate hash "sha256:zz" is not hexadecimal`,
			`6: cluster.caCertHashes[3]: the CA certificate hash "sha256:00" has 2 hexadecimal digits instead of 64`,
			`8: cluster.caCertHashes[5]: the CA certificate hash does not begin with "sha256:"`,
		}},
		{"one hash in two forms", "cluster: {caCertHashes: [\"" + testPin + "\", \"sha256:" + strings.ToUpper(testPin[7:]) + "\"]}\n", []string{"1: cluster.caCertHashes[1]: this is the same hash as cluster.caCertHashes[0]"}},
		{"CA", "cluster: {certificateAuthority: ca.crt}\n", []string{`1: cluster.certificateAuthority: the path "ca.crt" is not absolute`}},
		{"discovery file", "cluster: {discoveryFile: ./a}\n", []string{`1: cluster.discoveryFile: the path "./a" is not absolute`}},
		{"discovery over http", "cluster: {discoveryFile: \"http://a/b\"}\n", []string{"1: cluster.discoveryFile: the discovery file would come over http, where anyone on the way can change it"}},
		{"discovery from nowhere", "cluster: {discoveryFile: \"https://\"}\n", []string{"1: cluster.discoveryFile: the URL of the discovery file is not one"}},
		{"everything that a discovery file excludes", "cluster:\n  discoveryFile: /f\n  servers: [a]\n  caCertHashes: [\"" + testPin + "\"]\n  certificateAuthority: /ca\n  unsafeSkipCAVerification: true\n", []string{
			"3: cluster.servers: excludes cluster.discoveryFile: leave one of them out",
			"4: cluster.caCertHashes: excludes cluster.discoveryFile: leave one of them out",
			"5: cluster.certificateAuthority: excludes cluster.discoveryFile: leave one of them out",
			"6: cluster.unsafeSkipCAVerification: excludes cluster.discoveryFile: leave one of them out",
		}},
		{"a CA and hashes", "cluster:\n  caCertHashes: [\"" + testPin + "\"]\n  certificateAuthority: /ca\n", []string{"2: cluster.caCertHashes: excludes cluster.certificateAuthority: leave one of them out"}},
		{"a CA and none", "cluster:\n  certificateAuthority: /ca\n  unsafeSkipCAVerification: true\n", []string{"3: cluster.unsafeSkipCAVerification: excludes cluster.certificateAuthority: leave one of them out"}},
		{"hashes and none", "cluster:\n  caCertHashes: [\"" + testPin + "\"]\n  unsafeSkipCAVerification: true\n", []string{"3: cluster.unsafeSkipCAVerification: excludes cluster.caCertHashes: leave one of them out"}},
		{"node name", "nodeName: a/b\n", []string{`1: nodeName: the node name "a/b" is not a valid DNS subdomain (RFC 1123)`}},
		{"node name of dots", "nodeName: ..\n", []string{`1: nodeName: the node name ".." is not a valid DNS subdomain (RFC 1123)`}},
	})
}

func TestCredentials(t *testing.T) {
	wantMistakes(t, []badFile{
		{"neither", "credentials:\n- {}\n", []string{"2: credentials[0]: has none of bootstrapToken, bearerToken, clientCertificate, oidc, basic, exec"}},
		{"both", "credentials:\n- bootstrapToken: {}\n  bearerToken: {file: /a}\n", []string{"2: credentials[0]: has both bootstrapToken and bearerToken: give each an item of its own"}},
		{"one without a value", "credentials:\n- bootstrapToken:\n", []string{"2: credentials[0]: is empty: give bootstrapToken what belongs to it, as in bootstrapToken: {file: /etc/nodejoin/token}"}},
		{"no file", "credentials:\n- bearerToken: {}\n", []string{"2: credentials[0].bearerToken.file: is missing: give the path of the file that holds the token"}},
		{"a kind that is not known", "credentials:\n- password: {command: a}\n", []string{"2: credentials[0].password: unknown key", "2: credentials[0]: has none of bootstrapToken, bearerToken, clientCertificate, oidc, basic, exec"}},
		{"no certificate", "credentials:\n- clientCertificate: {privateKeyFile: /k}\n", []string{"2: credentials[0].clientCertificate.certificateFile: is missing: give the path of the file that holds the certificate"}},
		{"a key that is no path", "credentials:\n- clientCertificate: {certificateFile: /c, privateKeyFile: k}\n", []string{"2: credentials[0].clientCertificate.privateKeyFile: is not the absolute path of a file"}},
		{"a provider without anything", "credentials:\n- oidc: {issuer: ''}\n", []string{
			"2: credentials[0].oidc.issuer: is missing: give the provider's https URL",
			"2: credentials[0].oidc.clientID: is missing: give the client that this machine is to the provider",
			"2: credentials[0].oidc: has neither refreshTokenFile nor clientSecretFile: there is nothing to get a token with",
		}},
		{"an issuer over http", "credentials:\n- oidc: {issuer: 'http://a', clientID: b, clientSecretFile: /s}\n", []string{"2: credentials[0].oidc.issuer: is not an https URL without user, query and fragment"}},
		{"an issuer with a password", "credentials:\n- oidc: {issuer: 'https://a:canary@b', clientID: b, clientSecretFile: /s}\n", []string{"2: credentials[0].oidc.issuer: is not an https URL without user, query and fragment"}},
		{"what a refresh token has already", "credentials:\n- oidc: {issuer: 'https://a', clientID: b, refreshTokenFile: /r, scopes: [openid], audience: c}\n", []string{
			"2: credentials[0].oidc.scopes: are those that the refresh token was issued for: leave them out",
			"2: credentials[0].oidc.audience: is of the client credentials grant, and a refresh token has one already: leave it out",
		}},
		{"two scopes in one", "credentials:\n- oidc: {issuer: 'https://a', clientID: b, clientSecretFile: /s, scopes: [a b]}\n", []string{`2: credentials[0].oidc.scopes[0]: "a b" is not a scope: it is without white space`}},
		{"a password without a proxy", "credentials:\n- basic: {username: a, passwordFile: /p}\n", []string{"2: credentials[0]: needs endpoint: a password is for a proxy, and no API server knows it"}},
		{"a name with a colon", "credentials:\n- basic: {username: 'a:b', passwordFile: /p}\n  endpoint: {server: a}\n", []string{"2: credentials[0].basic.username: has a colon in it, which ends a name"}},
		{"no password", "credentials:\n- basic: {username: a}\n  endpoint: {server: a}\n", []string{"2: credentials[0].basic.passwordFile: is missing: give the path of the file that holds the password"}},
		{"no server", "credentials:\n- bearerToken: {file: /t}\n  endpoint: {certificateAuthority: /c}\n", []string{"3: credentials[0].endpoint.server: is missing: give HOST:PORT"}},
		{"a server with a path", "credentials:\n- bearerToken: {file: /t}\n  endpoint: {server: 'https://a/b', certificateAuthority: c, tlsServerName: 'a b'}\n", []string{
			`3: credentials[0].endpoint.server: the API server "https://a/b" has a path, which is not supported`,
			`3: credentials[0].endpoint.certificateAuthority: the path "c" is not absolute`,
			`3: credentials[0].endpoint.tlsServerName: the TLS server name "a b" is not a DNS name`,
		}},
		{"a bootstrap token elsewhere", "credentials:\n- bootstrapToken: {}\n  endpoint: {server: a}\n", []string{"3: credentials[0].endpoint: a bootstrap token is shown to the cluster's own API servers: put it under bearerToken to show it elsewhere"}},
		{"no program", "credentials:\n- exec: {timeout: 1s}\n", []string{"2: credentials[0].exec.command: is missing: give the program and its arguments"}},
		{"a program by its name", "credentials:\n- exec: {command: [token]}\n", []string{`2: credentials[0].exec.command[0]: the path "token" is not absolute`}},
		{"variables", "credentials:\n- exec: {command: [/t], env: [{name: A}, {name: A}, {name: 'B=C'}, {}], timeout: 25h}\n", []string{
			`2: credentials[0].exec.env[1].name: "A" is there twice`,
			`2: credentials[0].exec.env[2].name: "B=C" is not the name of a variable`,
			`2: credentials[0].exec.env[3].name: "" is not the name of a variable`,
			"2: credentials[0].exec.timeout: 25h is longer than 24h",
		}},
		{"relative", "credentials:\n- bootstrapToken: {file: token}\n", []string{"2: credentials[0].bootstrapToken.file: is not the absolute path of a file"}},
		{"wrong type", "credentials:\n- bootstrapToken: /etc/token\n", []string{"2: credentials[0].bootstrapToken: must be a mapping of keys to values, not a string"}},
	})
}

func TestSchedule(t *testing.T) {
	wantMistakes(t, []badFile{
		{"rotation", "rotation: both\n", []string{`1: rotation: "both" is not one of agent, kubelet`}},
		{"nothing", "rotateAfter: {minPercent: 0}\n", []string{"1: rotateAfter.minPercent: 0 is not between 1 and 99"}},
		{"all", "rotateAfter:\n  minPercent: 50\n  maxPercent: 100\n", []string{"3: rotateAfter.maxPercent: 100 is not between 1 and 99"}},
		{"below nothing", "rotateAfter: {maxPercent: -1}\n", []string{"1: rotateAfter.maxPercent: -1 is not between 1 and 99"}},
		{"the wrong way round", "rotateAfter:\n  minPercent: 80\n  maxPercent: 79\n", []string{"3: rotateAfter.maxPercent: minPercent is 80 and maxPercent is 79, which is less"}},
		{"later than the default", "rotateAfter: {minPercent: 91}\n", []string{"1: rotateAfter.minPercent: minPercent is 91 and maxPercent is 90, which is less"}},
		{"earlier than the default", "rotateAfter: {maxPercent: 69}\n", []string{"1: rotateAfter.maxPercent: minPercent is 70 and maxPercent is 69, which is less"}},
		{"a pause that is none", "deniedPause: 999ms\n", []string{"1: deniedPause: 999ms is shorter than 1s"}},
		{"interval", "trust: {interval: 10ms}\n", []string{"1: trust.interval: 10ms is shorter than 1s"}},
		{"no interval", "trust: {interval: 0}\n", []string{"1: trust.interval: 0 is shorter than 1s"}},
		{"log", "log: {level: trace, format: logfmt}\n", []string{
			`1: log.format: "logfmt" is not one of text, json`, `1: log.level: "trace" is not one of debug, info, warn, error`,
		}},
	})
}

func TestCertificates(t *testing.T) {
	wantMistakes(t, []badFile{
		{"no name", "certificates:\n- lifetime: 1h\n", []string{"2: certificates[0].name: is missing"}},
		{"names", "certificates:\n- {name: A, signerName: a.b/c, directory: /a, commonName: a}\n- {name: ../a, signerName: a.b/c, directory: /a, commonName: a}\n- {name: " + strings.Repeat("a", 64) + ", signerName: a.b/c, directory: /a, commonName: a}\n", []string{
			`2: certificates[0].name: "A" is not a name of at most 63 lower-case letters, digits and '-', with no '-' at its ends`,
			`3: certificates[1].name: "../a" is not a name of at most 63 lower-case letters, digits and '-', with no '-' at its ends`,
			`4: certificates[2].name: "` + strings.Repeat("a", 64) + `" is not a name of at most 63 lower-case letters, digits and '-', with no '-' at its ends`,
		}},
		{"names that are taken", "certificates:\n- {name: ca, signerName: a.b/c, directory: /a, commonName: a}\n- {name: kubeconfig, signerName: a.b/c, directory: /a, commonName: a}\n- {name: kubelet-server, signerName: a.b/c, directory: /a, commonName: a}\n", []string{
			`2: certificates[0].name: "ca" is taken: under hooks it is the CA bundle`,
			`3: certificates[1].name: "kubeconfig" is taken: under hooks it is the kubeconfig`,
			`4: certificates[2].name: "kubelet-server" is taken: the files of kubelet-serving are called so`,
		}},
		{"a name twice", "certificates:\n- name: kubelet-client\n- name: kubelet-client\n", []string{`3: certificates[1].name: "kubelet-client" is there twice: it is also certificates[0].name`}},
		{"a name of one's own twice", own + "  commonName: a\n- {name: a, signerName: a.b/c, directory: /b, commonName: a}\n", []string{`6: certificates[1].name: "a" is there twice: it is also certificates[0].name`}},
		{"a name misspelled", "certificates:\n- name: kubelet-sreving\n", []string{
			"2: certificates[0].signerName: is missing: a certificate other than kubelet-client and kubelet-serving needs a signer",
			"2: certificates[0].directory: is missing: a certificate other than kubelet-client and kubelet-serving needs a directory",
			"2: certificates[0].commonName: is missing: a certificate needs a commonName, dnsNames, ipAddresses, uris or machineNames",
		}},
		{"names to certify that are wrong are not missing", own + "  dnsNames: a\n", []string{"5: certificates[0].dnsNames: must be a list, not a string"}},
		{"the client's template", "certificates:\n- name: kubelet-client\n  signerName: a.b/c\n  commonName: a\n  organizations: [a]\n  dnsNames: [a]\n  ipAddresses: [192.0.2.1]\n  uris: [a:b]\n  machineNames: true\n  usages: [any]\n  directory: /a\n", []string{
			"3: certificates[0].signerName: kubelet-client is built in and has no signerName of its own: leave it out",
			"4: certificates[0].commonName: kubelet-client is built in and has no commonName of its own: leave it out",
			"5: certificates[0].organizations: kubelet-client is built in and has no organizations of its own: leave it out",
			"6: certificates[0].dnsNames: kubelet-client is built in and has no dnsNames of its own: leave it out",
			"7: certificates[0].ipAddresses: kubelet-client is built in and has no ipAddresses of its own: leave it out",
			"8: certificates[0].uris: kubelet-client is built in and has no uris of its own: leave it out",
			"9: certificates[0].machineNames: kubelet-client is built in and has no machineNames of its own: leave it out",
			"10: certificates[0].usages: kubelet-client is built in and has no usages of its own: leave it out",
			"11: certificates[0].directory: kubelet-client is built in and has no directory of its own: leave it out",
		}},
		{"the serving template", "certificates:\n- name: kubelet-serving\n  signerName: a.b/c\n  commonName: a\n  organizations: [a]\n  dnsNames: [a]\n  ipAddresses: [192.0.2.1]\n  uris: [a:b]\n  machineNames: true\n  usages: [any]\n  directory: /a\n", []string{
			"3: certificates[0].signerName: kubelet-serving is built in and has no signerName of its own: leave it out",
			"4: certificates[0].commonName: kubelet-serving is built in and has no commonName of its own: leave it out",
			"5: certificates[0].organizations: kubelet-serving is built in and has no organizations of its own: leave it out",
			"8: certificates[0].uris: kubelet-serving is built in and has no uris of its own: leave it out",
			"10: certificates[0].usages: kubelet-serving is built in and has no usages of its own: leave it out",
			"11: certificates[0].directory: kubelet-serving is built in and has no directory of its own: leave it out",
		}},
		{"a subject", own + "  commonName: \"a\\nb\"\n  organizations: [a, a, \"\", \" b\"]\n", []string{
			`5: certificates[0].commonName: the common name "a\nb" is not plain text without white space around it`,
			`6: certificates[0].organizations[1]: "a" is there twice`,
			`6: certificates[0].organizations[2]: there is nothing in it`,
			`6: certificates[0].organizations[3]: the organization " b" is not plain text without white space around it`,
		}},
		{"names", own + "  dnsNames: [a_b, \"*\", \"*.a\", 192.0.2.1, a.b]\n  ipAddresses: [a, 192.0.2.256, \"fe80::1%eth0\", \"::1\"]\n  uris: [a, /a, \"http:\", \"%\", \"a:b c\", \"a:ä\", \"a:b\"]\n", []string{
			`5: certificates[0].dnsNames[0]: the DNS name "a_b" is not valid (RFC 1123): it has letters, digits, '-' and '.' alone, and '*' for the first label at most`,
			`5: certificates[0].dnsNames[1]: the DNS name "*" is not valid (RFC 1123): it has letters, digits, '-' and '.' alone, and '*' for the first label at most`,
			`5: certificates[0].dnsNames[3]: the DNS name "192.0.2.1" is an IP address: it belongs with the IP addresses`,
			`6: certificates[0].ipAddresses[0]: "a" is not an IP address`,
			`6: certificates[0].ipAddresses[1]: "192.0.2.256" is not an IP address`,
			`6: certificates[0].ipAddresses[2]: the IP address "fe80::1%eth0" is not that of one machine`,
			`7: certificates[0].uris[0]: the URI "a" is not absolute and in its normal form (RFC 3986), as in spiffe://example.com/metrics`,
			`7: certificates[0].uris[1]: the URI "/a" is not absolute and in its normal form (RFC 3986), as in spiffe://example.com/metrics`,
			`7: certificates[0].uris[2]: the URI "http:" is not absolute and in its normal form (RFC 3986), as in spiffe://example.com/metrics`,
			`7: certificates[0].uris[3]: this is not a URI`,
			`7: certificates[0].uris[4]: the URI "a:b c" is not absolute and in its normal form (RFC 3986), as in spiffe://example.com/metrics`,
			`7: certificates[0].uris[5]: the URI "a:ä" is not absolute and in its normal form (RFC 3986), as in spiffe://example.com/metrics`,
		}},
		{"usages", own + "  commonName: a\n  usages: [server auth, serverAuth, server auth]\n", []string{
			`6: certificates[0].usages[2]: "server auth" is there twice`, `6: certificates[0].usages[1]: the usage "serverAuth" is not known`,
		}},
		{"a short life", own + "  commonName: a\n  lifetime: 599s\n", []string{"6: certificates[0].lifetime: the lifetime 9m59s is shorter than the API allows (10m0s): ask for 10m or more, or leave it out to get the cluster's own"}},
		{"a key", own + "  commonName: a\n  keyAlgorithm: RSA-1024\n", []string{`6: certificates[0].keyAlgorithm: "RSA-1024" is not one of ECDSA-P256, ECDSA-P384, RSA-2048, RSA-3072, RSA-4096`}},
		{"paths", "certificates:\n- name: a\n  signerName: a.b/c\n  commonName: a\n  directory: a\n  certificateFile: /a/../b\n  privateKeyFile: /a/\n", []string{
			`5: certificates[0].directory: the path "a" is not absolute`,
			`6: certificates[0].certificateFile: the path "/a/../b" is not in its simplest form: write "/b"`,
			`7: certificates[0].privateKeyFile: the path "/a/" is not in its simplest form: write "/a"`,
		}},
		{"accounts", own + "  commonName: a\n  owner: -a\n  group: \"4294967295\"\n", []string{
			`6: certificates[0].owner: "-a" is no name: write a name, or a number in quotes`,
			`7: certificates[0].group: "4294967295" is out of range: write a name, or a number in quotes`,
		}},
		{"more accounts", own + "  commonName: a\n  owner: a:b\n  group: \"a \"\n", []string{
			`6: certificates[0].owner: "a:b" is no name: write a name, or a number in quotes`,
			`7: certificates[0].group: "a " is no name: write a name, or a number in quotes`,
		}},
		{"a number for a user", own + "  commonName: a\n  owner: 1000\n", []string{"6: certificates[0].owner: must be a string, not a number: put it in quotes"}},
	})
	for mode, want := range map[string]string{
		"0666": "lets others write", "0620": "lets others write", "0602": "lets others write", "0644": "lets everybody read the private key",
		"0700": "lets the file be executed", "0610": "lets the file be executed", "0040": "does not let the owner read", "600": "", "0640": "", "0400": "",
		"0o600": `is not an octal mode: write it as in "0640"`, "0800": `is not an octal mode: write it as in "0640"`, "4600": `is not an octal mode: write it as in "0640"`,
		"rw-------": `is not an octal mode: write it as in "0640"`, "00600": `is not an octal mode: write it as in "0640"`,
	} {
		test := badFile{name: "mode " + mode, text: own + "  commonName: a\n  mode: \"" + mode + "\"\n"}
		if want != "" {
			test.want = []string{`6: certificates[0].mode: "` + mode + `" ` + want}
		}
		wantMistakes(t, []badFile{test})
	}
	wantMistakes(t, []badFile{
		{"signer", "certificates: [{name: a, signerName: a, directory: /a, commonName: a}]\n", []string{`1: certificates[0].signerName: the signer name "a" is not of the form example.com/name`}},
		{"the signer of old", "certificates: [{name: a, signerName: kubernetes.io/legacy-unknown, directory: /a, commonName: a}]\n", []string{`1: certificates[0].signerName: the signer "kubernetes.io/legacy-unknown" is none of Kubernetes' own`}},
	})
}

// What the agent would find out at its first request only.
func TestTemplates(t *testing.T) {
	const client, node, serving = "kubernetes.io/kube-apiserver-client", "kubernetes.io/kube-apiserver-client-kubelet", "kubernetes.io/kubelet-serving"
	by := func(signer string) string {
		return "certificates:\n- name: a\n  directory: /a\n  signerName: " + signer + "\n"
	}
	wantMistakes(t, []badFile{
		{"above all authorization", own + "  commonName: a\n  organizations:\n  - a\n  - system:masters\n", []string{
			`8: certificates[0].organizations[1]: the organization "system:masters" is above all authorization`,
		}},
		{"a CA's usages", own + "  commonName: a\n  usages: [server auth, cert sign, crl sign]\n", []string{
			`6: certificates[0].usages[1]: the usage "cert sign" is a CA's`, `6: certificates[0].usages[2]: the usage "crl sign" is a CA's`,
		}},
		{"no one machine's address", own + "  ipAddresses: [192.0.2.1, 0.0.0.0, \"ff02::1\"]\n", []string{
			`5: certificates[0].ipAddresses[1]: the IP address "0.0.0.0" is not that of one machine`, `5: certificates[0].ipAddresses[2]: the IP address "ff02::1" is not that of one machine`,
		}},
		{"the kubelet's serving certificate of no one machine", "certificates:\n- name: kubelet-serving\n  dnsNames: [a, _]\n  ipAddresses: [\"::\"]\n", []string{
			`3: certificates[0].dnsNames[1]: the DNS name "_" is not valid (RFC 1123): it has letters, digits, '-' and '.' alone, and '*' for the first label at most`,
			`4: certificates[0].ipAddresses[0]: the IP address "::" is not that of one machine`,
		}},
		{"a serving certificate of another", by(serving) + "  commonName: a\n  organizations: [a]\n  uris: [\"urn:a:b\"]\n  usages: [client auth]\n", []string{
			"2: certificates[0].dnsNames: the signer kubernetes.io/kubelet-serving wants a DNS name or an IP address",
			"5: certificates[0].commonName: the signer kubernetes.io/kubelet-serving wants a common name of the form system:node:NAME",
			"6: certificates[0].organizations: the signer kubernetes.io/kubelet-serving wants the organization system:nodes",
			"7: certificates[0].uris: the signer kubernetes.io/kubelet-serving takes no URIs",
			`8: certificates[0].usages: the signer kubernetes.io/kubelet-serving wants the usages "digital signature" and "server auth"`,
		}},
		{"a node with names", by(node) + "  commonName: system:node:a\n  organizations: [system:nodes]\n  machineNames: true\n  usages: [digital signature, client auth]\n", []string{
			`4: certificates[0].signerName: the signer kubernetes.io/kube-apiserver-client-kubelet takes no subject alternative names ("DNS:this-machine")`,
		}},
		{"the usages by default are a server's", by(node) + "  commonName: system:node:a\n  organizations: [system:nodes]\n", []string{
			`2: certificates[0].usages: the signer kubernetes.io/kube-apiserver-client-kubelet wants the usages "digital signature" and "client auth"`,
		}},
		{"a user without a name", by(client) + "  dnsNames: [a]\n", []string{"2: certificates[0].commonName: the signer kubernetes.io/kube-apiserver-client makes users, and a user has a common name"}},
		{"a slip in a signer", by("kubernetes.io/kubelet-servng") + "  commonName: a\n", []string{`4: certificates[0].signerName: the signer "kubernetes.io/kubelet-servng" is none of Kubernetes' own`}},
		{"without a name", "certificates:\n- organizations: [system:masters]\n", []string{
			"2: certificates[0].name: is missing", `2: certificates[0].organizations[0]: the organization "system:masters" is above all authorization`,
		}},
		{"names that are wrong may be right ones", by(serving) + "  commonName: system:node:a\n  organizations: [system:nodes]\n  ipAddresses: 192.0.2.1\n", []string{
			"7: certificates[0].ipAddresses: must be a list, not a string",
		}},
	})
	for name, text := range map[string]string{
		"a node's serving certificate": by(serving) + "  commonName: system:node:a\n  organizations: [system:nodes]\n  machineNames: true\n",
		"a user":                       by(client) + "  commonName: a\n",
		"the kubelet's own":            "certificates: [{name: kubelet-client}, {name: kubelet-serving}]\n",
		"names of the kubelet's own":   "certificates: [{name: kubelet-serving, dnsNames: [A.example.com], ipAddresses: [\"::ffff:192.0.2.1\"]}]\n",
	} {
		if _, err := Parse([]byte(text), "c.yaml"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestHooks(t *testing.T) {
	wantMistakes(t, []badFile{
		{"nothing", "hooks:\n- {}\n", []string{"2: hooks[0].name: is missing", "2: hooks[0].command: is missing: give the program and its arguments"}},
		{"names", "hooks:\n- {name: a, command: [/a]}\n- {name: a, command: [/a]}\n- {name: a b, command: [/a]}\n", []string{
			`3: hooks[1].name: "a" is there twice: it is also hooks[0].name`,
			`4: hooks[2].name: "a b" is not a name of at most 63 lower-case letters, digits and '-', with no '-' at its ends`,
		}},
		{"changes", own + "  commonName: a\nhooks:\n- name: a\n  command: [/a]\n  on: [a, ca, kubeconfig, kubelet-client, kubelet-serving, b, ca]\n", []string{
			`9: hooks[0].on[4]: "kubelet-serving" is no certificate of this file, nor ca or kubeconfig`,
			`9: hooks[0].on[5]: "b" is no certificate of this file, nor ca or kubeconfig`,
			`9: hooks[0].on[6]: "ca" is there twice`,
		}},
		{"commands", "hooks:\n- {name: a, command: [systemctl, reload]}\n- {name: b, command: [\"\"]}\n- {name: c, command: []}\n- {name: d, command: [/a/../b]}\n- {name: e, command: [/a, \"x\\0\"]}\n- {name: f, command: /bin/true}\n", []string{
			`2: hooks[0].command[0]: the path "systemctl" is not absolute`,
			`3: hooks[1].command[0]: there is no program`,
			`4: hooks[2].command: is missing: give the program and its arguments`,
			`5: hooks[3].command[0]: the path "/a/../b" is not in its simplest form: write "/b"`,
			`6: hooks[4].command[1]: there is a NUL byte, which no argument can have in it`,
			`7: hooks[5].command: must be a list, not a string`,
		}},
		{"time", "hooks:\n- {name: a, command: [/a], timeout: 0}\n- {name: b, command: [/a], timeout: 25h}\n- {name: c, command: [/a], timeout: -1s}\n", []string{
			"2: hooks[0].timeout: a hook needs a time limit above zero", "3: hooks[1].timeout: 25h is longer than 24h", `4: hooks[2].timeout: "-1s" is negative`,
		}},
	})
}

func TestPaths(t *testing.T) {
	const form = `: give a loopback address as in 127.0.0.1:10263, unix: and the path of a socket, or "" for none`
	const taken = `, which has the metrics, too: give another path, or "" for none`
	long := "/" + strings.Repeat("a", 4095)
	wantMistakes(t, []badFile{
		{"each", "paths:\n  kubeconfig: a\n  certDir: a\n  caFile: a\n  stateDir: a\n  runtimeDir: a\n  kubeletConfig: a\n", []string{
			`2: paths.kubeconfig: the path "a" is not absolute`, `3: paths.certDir: the path "a" is not absolute`, `4: paths.caFile: the path "a" is not absolute`,
			`5: paths.stateDir: the path "a" is not absolute`, `6: paths.runtimeDir: the path "a" is not absolute`, `7: paths.kubeletConfig: the path "a" is not absolute`,
		}},
		{"forms", "paths:\n  kubeconfig: //a\n  certDir: /a/./b\n  caFile: /\n  stateDir: \"/a\\x1b\"\n  kubeletConfig: " + long + "\n", []string{
			`2: paths.kubeconfig: the path "//a" is not in its simplest form: write "/a"`, `3: paths.certDir: the path "/a/./b" is not in its simplest form: write "/a/b"`,
			`4: paths.caFile: the path is the root directory`, `5: paths.stateDir: the path "/a\x1b" has control characters in it`, `6: paths.kubeletConfig: the path has more than 4095 bytes`,
		}},
		{"a long way to the socket", "paths: {runtimeDir: /" + strings.Repeat("a", 93) + "}\n", []string{"1: paths.runtimeDir: is too long: the path of the socket in it may have 107 bytes"}},
		{"nearly as long", "paths: {runtimeDir: /" + strings.Repeat("a", 92) + "}\n", nil},
		{"metrics for others", "metrics: {listen: \"0.0.0.0:10263\"}\n", []string{`1: metrics.listen: "0.0.0.0:10263" could be reached from other machines, without encryption and authentication` + form}},
		{"metrics for others over IPv6", "metrics: {listen: \"[2001:db8::1]:1\"}\n", []string{`1: metrics.listen: "[2001:db8::1]:1" could be reached from other machines, without encryption and authentication` + form}},
		{"metrics on every address", "metrics: {listen: \":10263\"}\n", []string{`1: metrics.listen: ":10263" is not IP:PORT` + form}},
		{"metrics by name", "metrics: {listen: \"localhost:10263\"}\n", []string{`1: metrics.listen: "localhost:10263" is not IP:PORT` + form}},
		{"metrics without a port", "metrics: {listen: 127.0.0.1}\n", []string{`1: metrics.listen: "127.0.0.1" is not IP:PORT` + form}},
		{"metrics on any port", "metrics: {listen: \"127.0.0.1:0\"}\n", []string{`1: metrics.listen: "127.0.0.1:0" has no port between 1 and 65535`}},
		{"metrics on no port", "metrics: {listen: \"127.0.0.1:70000\"}\n", []string{`1: metrics.listen: "127.0.0.1:70000" is not IP:PORT` + form}},
		{"metrics in a zone", "metrics: {listen: \"[::1%lo]:1\"}\n", []string{`1: metrics.listen: "[::1%lo]:1" is not IP:PORT` + form}},
		{"a relative socket", "metrics: {listen: \"unix:a\"}\n", []string{`1: metrics.listen: the path "a" is not absolute`}},
		{"a URL of a socket", "metrics: {listen: \"unix:///a\"}\n", []string{`1: metrics.listen: the path "///a" is not in its simplest form: write "/a"`}},
		{"a long socket", "metrics: {listen: \"unix:/" + strings.Repeat("a", 107) + "\"}\n", []string{"1: metrics.listen: the path of a socket has at most 107 bytes"}},
		{"the status socket", "metrics: {listen: \"unix:/run/nodejoin/nodejoin.sock\"}\n", []string{`1: metrics.listen: "/run/nodejoin/nodejoin.sock" is the socket that nodejoin status asks` + taken}},
		{"the status socket elsewhere", "paths: {runtimeDir: /run/a}\nmetrics: {listen: \"unix:/run/a/nodejoin.sock\"}\n", []string{`2: metrics.listen: "/run/a/nodejoin.sock" is the socket that nodejoin status asks` + taken}},
		{"not the status socket", "paths: {runtimeDir: /run/a}\nmetrics: {listen: \"unix:/run/nodejoin/nodejoin.sock\"}\n", nil},
	})
	for _, listen := range []string{"127.0.0.1:1", "127.1.2.3:65535", "[::1]:10263", "unix:/run/a.sock", "unix:/" + strings.Repeat("a", 106), ""} {
		if err := CheckListen(listen, DefaultRuntimeDir); err != nil {
			t.Errorf("%q: %v", listen, err)
		}
	}
}

// Two uses of one path would overwrite each other.
func TestClashes(t *testing.T) {
	wantMistakes(t, []badFile{
		{"two paths", "paths:\n  kubeconfig: /a\n  caFile: /a\n", []string{"3: paths.caFile: this is also paths.kubeconfig"}},
		{"a default that comes first", "paths:\n  caFile: /etc/kubernetes/kubelet.conf\n", []string{"2: paths.caFile: this is also paths.kubeconfig"}},
		{"a default that comes later", "paths:\n  kubeconfig: /etc/kubernetes/pki/ca.crt\n", []string{"2: paths.kubeconfig: this is also paths.caFile"}},
		{"one state and run-time directory", "paths:\n  stateDir: /run/nodejoin\n", []string{"2: paths.stateDir: this is also paths.runtimeDir"}},
		{"certificate and key", own + "  commonName: a\n  certificateFile: /b\n  privateKeyFile: /b\n", []string{"7: certificates[0].privateKeyFile: this is also certificates[0].certificateFile"}},
		{"two certificates", "certificates:\n- name: kubelet-client\n  certificateFile: /b\n- name: kubelet-serving\n  certificateFile: /b\n", []string{"5: certificates[1].certificateFile: this is also certificates[0].certificateFile"}},
		{"a copy over the link", own + "  commonName: a\n  privateKeyFile: /a/a-current.pem\n", []string{"6: certificates[0].privateKeyFile: this is also the link to the certificate a"}},
		{"a copy over the link of a later one", "certificates:\n- name: kubelet-client\n  privateKeyFile: /var/lib/kubelet/pki/kubelet-server-current.pem\n- name: kubelet-serving\n", []string{
			"3: certificates[0].privateKeyFile: this is also the link to the certificate kubelet-serving",
		}},
		{"a copy over the client's link", own + "  commonName: a\n  privateKeyFile: /pki/kubelet-client-current.pem\npaths: {certDir: /pki}\n", []string{"6: certificates[0].privateKeyFile: this is also the link to the certificate kubelet-client"}},
		{"a path over the client's link", "paths: {caFile: /var/lib/kubelet/pki/kubelet-client-current.pem}\n", []string{"1: paths.caFile: this is also the link to the certificate kubelet-client"}},
		{"a copy over the CA bundle", own + "  commonName: a\n  certificateFile: /etc/kubernetes/pki/ca.crt\n", []string{"6: certificates[0].certificateFile: this is also paths.caFile"}},
		{"a copy over the kubelet's configuration", own + "  commonName: a\n  certificateFile: /var/lib/kubelet/config.yaml\n", []string{"6: certificates[0].certificateFile: this is also paths.kubeletConfig"}},
		{"a copy over the token", own + "  commonName: a\n  certificateFile: /etc/nodejoin/token\n", []string{"6: certificates[0].certificateFile: this is also the file of the bootstrap token"}},
		{"a copy over a token", own + "  commonName: a\n  certificateFile: /t\ncredentials: [{bootstrapToken: {file: /u}}, {bearerToken: {file: /t}}]\n", []string{"6: certificates[0].certificateFile: this is also credentials[1].bearerToken.file"}},
		{"a copy over a token by default", own + "  commonName: a\n  certificateFile: /etc/nodejoin/token\ncredentials: [{bootstrapToken: {}}]\n", []string{"6: certificates[0].certificateFile: this is also credentials[0].bootstrapToken.file"}},
		{"a copy over the discovery file", own + "  commonName: a\n  certificateFile: /d\ncluster: {discoveryFile: /d}\n", []string{"6: certificates[0].certificateFile: this is also cluster.discoveryFile"}},
		{"a copy over the CA that was given", own + "  commonName: a\n  certificateFile: /d\ncluster: {certificateAuthority: /d}\n", []string{"6: certificates[0].certificateFile: this is also cluster.certificateAuthority"}},
	})
	for name, text := range map[string]string{
		"the CA bundle is what was given":         "cluster: {certificateAuthority: /etc/kubernetes/pki/ca.crt}\n",
		"two certificates in a directory":         own + "  commonName: a\n- {name: b, signerName: a.b/c, directory: /a, commonName: b}\n",
		"one of one's own beside the kubelet's":   "certificates: [{name: a, signerName: a.b/c, directory: /var/lib/kubelet/pki, commonName: a}, {name: kubelet-serving}]\n",
		"one token twice":                         "credentials: [{bearerToken: {file: /t}}, {bootstrapToken: {file: /t}}]\n",
		"machine names alone":                     own + "  machineNames: true\n",
		"a URI alone":                             own + "  uris: [\"urn:a:b\"]\n",
		"a user of a directory service":           own + "  commonName: a\n  owner: 'EXAMPLE\\jane doe'\n  group: \"4294967294\"\n",
		"a script of several lines":               "hooks:\n- name: a\n  command:\n  - /bin/sh\n  - -c\n  - |\n    echo a\n    echo b\n",
		"a host that begins as a token does":      "cluster: {servers: [\"" + testToken + ".example.com:6443\"]}\n",
		"a wild card":                             own + "  dnsNames: [\"*.example.com\"]\n",
		"the shortest life and the longest pause": own + "  commonName: a\n  lifetime: 10m\ndeniedPause: 87600h\n",
	} {
		if _, err := Parse([]byte(text), "c.yaml"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
