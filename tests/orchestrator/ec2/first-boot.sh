#!/bin/sh
# The first boot of a machine for the ec2emo run v9-0611-1420-abc: as root, once.
shutdown -h +720
set -u
umask 077

# The host key that is known at home; it is replaced at the first contact.
rm -f /etc/ssh/ssh_host_*
cat >/etc/ssh/ssh_host_ed25519_key <<'EC2EMO_EOF'
-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmU=
-----END OPENSSH PRIVATE KEY-----
EC2EMO_EOF
echo 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHost' >/etc/ssh/ssh_host_ed25519_key.pub
chmod 644 /etc/ssh/ssh_host_ed25519_key.pub
systemctl restart ssh || systemctl restart sshd || service ssh restart

user=ubuntu
home=$(getent passwd "$user" | cut -d: -f6)
group=$(id -gn "$user")
mkdir -p "$home/.ssh"
echo 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIUser ec2emo' >>"$home/.ssh/authorized_keys"
chown "$user:$group" "$home/.ssh" "$home/.ssh/authorized_keys"

umask 022
root=$home/.ec2emo
mkdir -p "$root/guard"
chown "$user:$group" "$root"
cat >"$root/guard/guard.json" <<'EC2EMO_EOF'
{
  "after": "terminate",
  "bucket": "ec2emo-models",
  "idle_minutes": 30,
  "max_cost_usd": null,
  "owner": "arn:aws:iam::123456789012:user/o'brien",
  "prefix": "runs",
  "region": "eu-central-1",
  "run": "v9-0611-1420-abc",
  "ttl_minutes": 720,
  "usd_per_hour": 0.526,
  "user": "ubuntu",
  "since": null
}
EC2EMO_EOF
cat >"$root/guard/guard.py" <<'EC2EMO_EOF'
the guard
EC2EMO_EOF
if [ -d /run/systemd/system ]; then
    cat >/etc/systemd/system/ec2emo-guard.service <<EC2EMO_EOF
[Unit]
Description=ends this machine when its work is done, or its limit is reached
[Service]
ExecStart=$(command -v python3) -IS $root/guard/guard.py $root
Restart=always
RestartSec=5
[Install]
WantedBy=multi-user.target
EC2EMO_EOF
    systemctl daemon-reload
    systemctl enable --now ec2emo-guard.service
else
    setsid python3 -IS "$root/guard/guard.py" "$root" </dev/null >>"$root/guard/guard.log" 2>&1 &
fi
