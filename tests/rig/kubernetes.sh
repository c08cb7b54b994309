#!/usr/bin/env bash
# kubernetes.sh CACHE: builds Kubernetes 1.20.2 from Debian's source package into CACHE/bin, once. Debian has only its
# kubectl as a package. Takes 10 minutes on two idle CPUs; what is built already stays. Nothing of the host is changed:
# the package lists, the sources and Go's own cache are below CACHE.
set -euo pipefail
shopt -s inherit_errexit

cache=$(realpath -m "$1")
work="$cache/kubernetes"
bin="$cache/bin"
go=/usr/lib/go-1.19/bin/go   # Debian's golang-1.19-go: what its kubernetes package is built with
version=v1.20.2
programs=(kubeadm kubectl kubelet kube-controller-manager kube-scheduler kube-proxy kube-apiserver)
tree="$work/gopath/src/k8s.io/kubernetes"

missing=()
for program in "${programs[@]}" pause crictl coredns; do
    [[ -x "$bin/$program" ]] || missing+=("$program")
done
(( ${#missing[@]} )) || exit 0
mkdir -p "$bin" "$work/apt/lists/partial" "$work/apt/cache/archives/partial"

export GOPATH="$work/gopath" GOCACHE="$work/go-build" GOMODCACHE="$work/modules" GOTOOLCHAIN=local GOFLAGS=-buildvcs=false
export CGO_ENABLED=0 GOGC=400   # for the compilers, which else spend much of their time on garbage

fetch() {
    echo 'deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm main' \
        > "$work/apt/sources.list"
    local apt=(apt-get -q -o "Dir::Etc::sourcelist=$work/apt/sources.list" -o Dir::Etc::sourceparts=-
        -o "Dir::State::lists=$work/apt/lists" -o "Dir::Cache=$work/apt/cache" -o APT::Sandbox::User=root)
    "${apt[@]}" update
    (cd "$work" && "${apt[@]}" source --download-only kubernetes)
    rm -rf "$tree"
    mkdir -p "$(dirname "$tree")"
    dpkg-source --no-check -x "$work"/kubernetes_*.dsc "$tree"
}

# The archive's reflect2 1.0.1 crashes when built with Go 1.18 or newer; 1.0.2 is the same with that mended.
mend() {
    local reflect2="$tree/vendor/github.com/modern-go/reflect2"
    (cd "$work" && GO111MODULE=on GOFLAGS=-modcacherw "$go" mod download github.com/modern-go/reflect2@v1.0.2)
    rm -rf "$reflect2"
    cp -r "$GOMODCACHE/github.com/modern-go/reflect2@v1.0.2" "$reflect2"
}

# pkg/generated/openapi is made by the release's build and is not in the archive.
generate() {
    export GO111MODULE=off
    cd "$tree"
    "$go" build -o "$work/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
    local folders folder inputs
    folders=$(grep --dereference-recursive --files-with-matches --include='*.go' '+k8s:openapi-gen=' \
        pkg vendor/k8s.io cmd | grep -v -e _test.go -e /generated/ -e zz_generated \
        -e vendor/k8s.io/code-generator -e vendor/k8s.io/sample-apiserver -e vendor/k8s.io/gengo -e vendor/k8s.io/kube-openapi \
        | xargs -n 1 dirname | sort -u)
    inputs=$(while read -r folder; do echo "k8s.io/kubernetes/$folder"; done <<< "$folders" | paste -sd,)
    "$work/openapi-gen" --logtostderr --go-header-file hack/boilerplate/boilerplate.generatego.txt \
        --output-file-base zz_generated.openapi --output-base "$GOPATH/src" \
        --output-package k8s.io/kubernetes/pkg/generated/openapi --input-dirs "$inputs" \
        --report-filename "$work/openapi-violations"
}

build() {
    export GO111MODULE=off
    local key value flags=(-s -w)
    for key in gitVersion=$version gitMajor=1 gitMinor=20 gitTreeState=clean gitCommit=debian; do
        value=${key#*=}
        flags+=(-X "k8s.io/kubernetes/vendor/k8s.io/component-base/version.${key%%=*}=$value"
            -X "k8s.io/kubernetes/vendor/k8s.io/client-go/pkg/version.${key%%=*}=$value")
    done
    cd "$tree"
    local name
    for name in "$@"; do
        [[ -x "$bin/$name" ]] && continue
        "$go" build -trimpath -ldflags "${flags[*]}" -o "$bin/$name.new" "./cmd/$name"
        mv "$bin/$name.new" "$bin/$name"
        echo "built $name"
    done
}

# Of its module the last version that old and new containerds understand; it wants a newer Go than Debian's.
crictl() (
    local newer=/usr/local/go/bin/go
    [[ -x $newer ]] || newer=$(command -v go) || { echo "crictl wants Go 1.24 or newer, and there is no go here" >&2; exit 1; }
    cd "$work"
    GO111MODULE=on GOFLAGS=-modcacherw GOBIN="$bin" "$newer" install -trimpath -ldflags '-s -w' \
        sigs.k8s.io/cri-tools/cmd/crictl@v1.34.0
)

# Without the plugins for the clouds, which are most of it and which no cluster here asks.
coredns() (
    local options='-modcacherw -mod=mod' source="$GOMODCACHE/github.com/coredns/coredns@v1.7.0" copy="$work/coredns"
    cd "$work"
    GO111MODULE=on GOFLAGS=-modcacherw "$go" mod download github.com/coredns/coredns@v1.7.0
    rm -rf "$copy"
    cp -r --no-preserve=mode "$source" "$copy"
    cd "$copy"
    sed -i -E '/plugin\/(route53|azure|clouddns|trace|dnstap|etcd|sign|dnssec|grpc|k8s_external|auto|secondary)"/d' \
        core/plugin/zplugin.go
    GO111MODULE=on GOFLAGS=$options "$go" build -trimpath -ldflags '-s -w' -o "$bin/coredns" .
)

[[ -f "$tree/cmd/kubeadm/kubeadm.go" ]] || fetch
mend
[[ -f "$tree/pkg/generated/openapi/zz_generated.openapi.go" ]] || (generate)
(build "${programs[@]}")
[[ -x "$bin/pause" ]] || cc -Os -static -s -o "$bin/pause" "$tree/build/pause/linux/pause.c" -DVERSION=3.2
[[ -x "$bin/crictl" ]] || crictl
[[ -x "$bin/coredns" ]] || coredns
