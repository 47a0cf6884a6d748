// Herald in one resource group: the Functions app, its storage, its identity, its bot and its telemetry.
// No resource has a key or secret: everything is reached by the one user-assigned identity.

targetScope = 'subscription'

@minLength(1)
@maxLength(40)
@description('Name of the environment; the names of all resources are made from it.')
param environmentName string

@description('Azure region of all resources. It must offer Flex Consumption.')
param location string

@description('Object id of the person or service principal that deploys, who gets the same roles on the storage. Empty: nobody does.')
param principalId string = ''

@allowed(['User', 'ServicePrincipal'])
@description('Kind of the principal that deploys.')
param principalType string = 'User'

@allowed(['public', 'gcc', 'gcchigh', 'dod'])
@description('Microsoft cloud of the tenants that the bot serves.')
param cloud string = 'public'

@description('Ids of the tenants that may use the bot, separated by commas. Empty: the tenant of the subscription.')
param allowedTenants string = ''

@description('Name of the bot in Teams.')
param botDisplayName string = 'Herald'

@allowed(['UserAssignedMSI', 'SingleTenant', 'MultiTenant'])
@description('How the bot proves who it is: by the identity (UserAssignedMSI), or by an app registration of your own with a secret, a certificate, or an identity that it trusts. Microsoft creates no new MultiTenant registrations.')
param botAppType string = 'UserAssignedMSI'

@description('Client id of your app registration; not with UserAssignedMSI.')
param botAppId string = ''

@secure()
@description('Secret of your app registration; not with UserAssignedMSI, a certificate or a federated client id.')
param botAppPassword string = ''

@secure()
@description('Certificate of your app registration with its private key, as PEM, or a Key Vault reference to it; instead of a secret.')
param botAppCertificate string = ''

@description('Client id of the managed identity that your app registration trusts, which must be the one of this deployment (output HERALD_IDENTITY_CLIENT_ID); instead of a secret.')
param botFederatedClientId string = ''

@description('Reach the storage only through private endpoints in a virtual network.')
param usePrivateEndpoints bool = false

@minValue(1)
@maxValue(1000)
@description('Most instances. All instances share one rate for each tenant, so more of them serve more tenants, not one tenant faster.')
param maximumInstanceCount int = 20

@allowed([512, 2048, 4096])
@description('Memory of an instance in MB. A host used 92 MB in the largest benchmark; its share of a core grows with the memory, and 2048 MB come with one core.')
param instanceMemoryMB int = 2048

@minValue(1)
@maxValue(1000)
@description('Requests of Teams that one instance handles at a time. An activity takes about 12 ms of CPU.')
param httpConcurrency int = 16

@minValue(0)
@description('Instances for /api/messages that always run, so that nobody waits for a cold start. Each is paid for by the hour.')
param alwaysReadyHttpInstances int = 0

// Settings of the app, as in README.md. Empty values are the defaults.
param tenantRate string = ''
param teamsAppId string = ''
param graphInstallRate string = ''
param graphCheckRate string = ''
param tablePrefix string = ''
param defaultTimeZone string = ''
param defaultDigest string = ''
param lateGraceMinutes string = ''
param holdDays string = ''
param probeDays string = ''
param maxActivityKB string = ''
param categoriesFile string = ''

var abbreviations = loadJsonContent('abbreviations.json')
var suffix = toLower(uniqueString(subscription().id, environmentName, location))
var tags = { 'azd-env-name': environmentName }
var clouds = loadJsonContent('clouds.json')
var botTenantId = tenant().tenantId
var functionAppName = '${abbreviations.webSitesFunctions}${suffix}'
var deploymentContainerName = 'app-package'

resource group 'Microsoft.Resources/resourceGroups@2024-03-01' = {
  name: '${abbreviations.resourcesResourceGroups}${environmentName}'
  location: location
  tags: tags
}

module identity 'br/public:avm/res/managed-identity/user-assigned-identity:0.4.1' = {
  name: 'identity'
  scope: group
  params: {
    name: '${abbreviations.managedIdentityUserAssignedIdentities}${suffix}'
    location: location
    tags: tags
  }
}

module plan 'br/public:avm/res/web/serverfarm:0.1.1' = {
  name: 'plan'
  scope: group
  params: {
    name: '${abbreviations.webServerFarms}${suffix}'
    location: location
    tags: tags
    sku: {
      name: 'FC1'
      tier: 'FlexConsumption'
    }
    reserved: true
  }
}

module storage 'br/public:avm/res/storage/storage-account:0.8.3' = {
  name: 'storage'
  scope: group
  params: {
    name: '${abbreviations.storageStorageAccounts}${suffix}'
    location: location
    tags: tags
    allowBlobPublicAccess: false
    allowSharedKeyAccess: false
    dnsEndpointType: 'Standard'
    publicNetworkAccess: usePrivateEndpoints ? 'Disabled' : 'Enabled'
    networkAcls: {
      defaultAction: usePrivateEndpoints ? 'Deny' : 'Allow'
      bypass: 'None'
    }
    blobServices: {
      containers: [{ name: deploymentContainerName }]
    }
    minimumTlsVersion: 'TLS1_2'
  }
}

module logs 'br/public:avm/res/operational-insights/workspace:0.7.0' = {
  name: 'logs'
  scope: group
  params: {
    name: '${abbreviations.operationalInsightsWorkspaces}${suffix}'
    location: location
    tags: tags
    dataRetention: 30
  }
}

module telemetry 'br/public:avm/res/insights/component:0.4.1' = {
  name: 'telemetry'
  scope: group
  params: {
    name: '${abbreviations.insightsComponents}${suffix}'
    location: location
    tags: tags
    workspaceResourceId: logs.outputs.resourceId
    disableLocalAuth: true
  }
}

module network 'app/network.bicep' = if (usePrivateEndpoints) {
  name: 'network'
  scope: group
  params: {
    name: '${abbreviations.networkVirtualNetworks}${suffix}'
    location: location
    tags: tags
    storageAccountName: storage.outputs.name
  }
}

module roles 'app/roles.bicep' = {
  name: 'roles'
  scope: group
  params: {
    storageAccountName: storage.outputs.name
    telemetryName: telemetry.outputs.name
    identityPrincipalId: identity.outputs.principalId
    principalId: principalId
    principalType: principalType
  }
}

module app 'app/app.bicep' = {
  name: 'app'
  scope: group
  params: {
    name: functionAppName
    location: location
    tags: tags
    planId: plan.outputs.resourceId
    identityId: identity.outputs.resourceId
    identityClientId: identity.outputs.clientId
    storageAccountName: storage.outputs.name
    deploymentContainerName: deploymentContainerName
    telemetryConnectionString: telemetry.outputs.connectionString
    subnetId: usePrivateEndpoints ? network.outputs.appSubnetId : ''
    maximumInstanceCount: maximumInstanceCount
    instanceMemoryMB: instanceMemoryMB
    httpConcurrency: httpConcurrency
    alwaysReadyHttpInstances: alwaysReadyHttpInstances
    botAppType: botAppType
    botAppId: botAppType == 'UserAssignedMSI' ? identity.outputs.clientId : botAppId
    botAppPassword: botAppPassword
    botAppCertificate: botAppCertificate
    botFederatedClientId: botFederatedClientId
    botTenantId: botTenantId
    appSettings: {
      ToBotFromChannelOpenIdMetadataUrl: clouds[cloud].openIdMetadata
      ToBotFromChannelTokenIssuer: clouds[cloud].tokenIssuer
      ToChannelFromBotLoginUrl: '${clouds[cloud].login}/${botTenantId}'
      ToChannelFromBotOAuthScope: clouds[cloud].oauthScope
      HERALD_SERVICE_HOSTS: clouds[cloud].serviceHosts
      HERALD_ALLOWED_TENANTS: empty(allowedTenants) ? botTenantId : allowedTenants
      HERALD_TENANT_RATE: tenantRate
      HERALD_GRAPH_URL: clouds[cloud].graph
      HERALD_TEAMS_APP_ID: teamsAppId
      HERALD_GRAPH_INSTALL_RATE: graphInstallRate
      HERALD_GRAPH_CHECK_RATE: graphCheckRate
      HERALD_TABLE_PREFIX: tablePrefix
      HERALD_DEFAULT_TIME_ZONE: defaultTimeZone
      HERALD_DEFAULT_DIGEST: defaultDigest
      HERALD_LATE_GRACE_MINUTES: lateGraceMinutes
      HERALD_HOLD_DAYS: holdDays
      HERALD_PROBE_DAYS: probeDays
      HERALD_MAX_ACTIVITY_KB: maxActivityKB
      HERALD_CATEGORIES_FILE: categoriesFile
    }
  }
  dependsOn: [roles]
}

module bot 'app/bot.bicep' = {
  name: 'bot'
  scope: group
  params: {
    name: '${abbreviations.botServices}${suffix}'
    tags: tags
    displayName: botDisplayName
    endpoint: 'https://${app.outputs.hostName}/api/messages'
    appType: botAppType
    appId: botAppType == 'UserAssignedMSI' ? identity.outputs.clientId : botAppId
    appTenantId: botTenantId
    identityId: botAppType == 'UserAssignedMSI' ? identity.outputs.resourceId : ''
  }
}

output AZURE_LOCATION string = location
output AZURE_TENANT_ID string = botTenantId
output SERVICE_APP_NAME string = functionAppName
output HERALD_APP_ID string = botAppType == 'UserAssignedMSI' ? identity.outputs.clientId : botAppId
output HERALD_IDENTITY_CLIENT_ID string = identity.outputs.clientId
output HERALD_IDENTITY_PRINCIPAL_ID string = identity.outputs.principalId
output HERALD_ENDPOINT string = 'https://${app.outputs.hostName}/api/messages'
output HERALD_QUEUE_URL string = 'https://${storage.outputs.name}.queue.${environment().suffixes.storage}/notifications'
