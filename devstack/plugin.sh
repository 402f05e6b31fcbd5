#!/bin/bash
# Runs the service in devstack:  enable_plugin cml_nova <URL of the repository>
# Looked over by bash -n and shellcheck only, never run in a devstack: doc/install.md is the way that was tried.

CML_NOVA_CONF=$CML_NOVA_CONF_DIR/cml_nova.conf

function install_cml_nova {
    setup_develop "$CML_NOVA_DIR" server
    pip_install PyMySQL pyuwsgi
}

function configure_cml_nova {
    sudo install -d -o "$STACK_USER" -m 0750 "$CML_NOVA_CONF_DIR" "$CML_NOVA_CONF_DIR/cml_nova.conf.d"
    sudo install -d -o "$STACK_USER" -m 0700 "$CML_NOVA_DATA_DIR"
    install -m 0600 /dev/null "$CML_NOVA_CONF"
    iniset "$CML_NOVA_CONF" DEFAULT transport_url "$(get_transport_url)"
    iniset "$CML_NOVA_CONF" database connection "$(database_connection_url cml_nova)"
    iniset "$CML_NOVA_CONF" storage path "$CML_NOVA_DATA_DIR"
    iniset "$CML_NOVA_CONF" secrets key_file "$CML_NOVA_CONF_DIR/fernet.keys"
    iniset "$CML_NOVA_CONF" tunnel host "$SERVICE_LISTEN_ADDRESS"
    iniset "$CML_NOVA_CONF" tunnel port "$CML_NOVA_TUNNEL_PORT"
    iniset "$CML_NOVA_CONF" tunnel public_url "ws://$SERVICE_HOST:$CML_NOVA_TUNNEL_PORT"
    iniset "$CML_NOVA_CONF" cloud ssh_source_cidr "$HOST_IP/32"
}

function init_cml_nova {
    OS_CLOUD=devstack-admin "$CML_NOVA_DIR/tools/register-service" --password-file "$CML_NOVA_CONF_DIR/password" \
        --endpoint "http://$SERVICE_HOST:$CML_NOVA_API_PORT" --region "$REGION_NAME" \
        --create-network "$CML_NOVA_NODES_CIDR" --external "$PUBLIC_NETWORK_NAME" \
        --write-config "$CML_NOVA_CONF_DIR/cml_nova.conf.d/cloud.conf"
    recreate_database cml_nova
    cml-nova-manage db sync
    cml-nova-manage secrets create
}

function start_cml_nova {
    run_process cml-conductor "$(command -v cml-nova-conductor)"
    run_process cml-worker "$(command -v cml-nova-worker)"
    run_process cml-api "$(command -v env) CML_NOVA_API_BIND=$SERVICE_LISTEN_ADDRESS:$CML_NOVA_API_PORT $(command -v uwsgi) --ini $CML_NOVA_DIR/etc/uwsgi/cml-nova-api.ini"
}

function stop_cml_nova {
    local name
    for name in cml-api cml-worker cml-conductor; do
        stop_process "$name"
    done
}

if is_service_enabled cml-api; then
    case "$1 ${2:-}" in
        "stack install") install_cml_nova ;;
        "stack post-config") configure_cml_nova ;;
        # After Neutron has made the public network.
        "stack test-config") init_cml_nova; start_cml_nova ;;
        "unstack ") stop_cml_nova ;;
        "clean ") sudo rm -rf "${CML_NOVA_CONF_DIR:?}" "${CML_NOVA_DATA_DIR:?}" ;;
    esac
fi
