#!/bin/sh
# A runtime, by this file's name, for pods without limits. containerd gives every sandbox a share of the processor, which
# asks for a controller that the control group here may not have; which devices a container may open needs none.
bundle=
for word; do
	[ "${previous-}" != --bundle ] || bundle=$word
	previous=$word
done
shares='"cpu":{"shares":[0-9]*}'
[ -z "$bundle" ] || sed -i "s/,$shares//; s/$shares,//; s/{$shares}/{}/" "$bundle/config.json"
runtime=${0##*/}
exec "${runtime%.sh}" "$@"
