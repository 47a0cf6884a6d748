#!/bin/sh
# Grant Herald application permissions of Microsoft Graph, each only if it is wanted:
#
#   infra/grant-graph-permissions.sh PRINCIPAL PERMISSION...
#
# PRINCIPAL is the object id of the service principal of the bot's app: for the identity of the deployment,
# HERALD_IDENTITY_PRINCIPAL_ID of `azd env get-values`. Needs `az login` by a Privileged Role Administrator.
#
#   User.Read.All                                find people by address, list the organisation, see disabled accounts
#   GroupMember.Read.All                         list the members of a group
#   AppCatalog.Read.All                          find the app in the catalogue of the organisation
#   TeamsAppInstallation.ReadWriteSelfForUser.All   install the app for people
#   TeamsAppInstallation.ReadWriteSelfForTeam.All   install the app for teams
#   MailboxSettings.Read                         know the time zone and language of people who are met for the first time
set -eu

GRAPH_APP=00000003-0000-0000-c000-000000000000
KNOWN="User.Read.All GroupMember.Read.All AppCatalog.Read.All TeamsAppInstallation.ReadWriteSelfForUser.All
TeamsAppInstallation.ReadWriteSelfForTeam.All MailboxSettings.Read"

if [ $# -lt 2 ]; then
  sed -n '2,/^set /p' "$0" | sed '$d; s/^# \{0,1\}//' >&2
  exit 2
fi
principal=$1
shift
for permission in "$@"; do
  case " $(echo $KNOWN) " in
    *" $permission "*) ;;
    *) echo "$permission is not a permission that Herald uses" >&2; exit 2 ;;
  esac
done

graph="$(az ad sp show --id "$GRAPH_APP" --query id --output tsv)"
url="$(az cloud show --query endpoints.microsoftGraphResourceId --output tsv)"
for permission in "$@"; do
  role="$(az ad sp show --id "$GRAPH_APP" --query "appRoles[?value=='$permission'].id | [0]" --output tsv)"
  granted="$(az rest --method get --url "${url%/}/v1.0/servicePrincipals/$principal/appRoleAssignments" \
    --query "length(value[?appRoleId=='$role'])" --output tsv)"
  if [ "$granted" != 0 ]; then
    echo "$permission was granted before"
    continue
  fi
  az rest --method post --url "${url%/}/v1.0/servicePrincipals/$principal/appRoleAssignments" --output none \
    --body "{\"principalId\": \"$principal\", \"resourceId\": \"$graph\", \"appRoleId\": \"$role\"}"
  echo "$permission is granted"
done
