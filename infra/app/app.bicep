// The Functions app on Flex Consumption. It reaches storage and telemetry by the user-assigned identity.

param name string
param location string
param tags object
param planId string
param identityId string
param identityClientId string
param storageAccountName string
param deploymentContainerName string
param telemetryConnectionString string

@description('Subnet of the app; empty without a virtual network.')
param subnetId string

param maximumInstanceCount int
param instanceMemoryMB int
param httpConcurrency int
param alwaysReadyHttpInstances int

param botAppType string
param botAppId string

@secure()
param botAppPassword string

@secure()
param botAppCertificate string

param botFederatedClientId string

param botTenantId string

@description('Further settings of the app, by name.')
param appSettings object

var storageHost = environment().suffixes.storage

// The identity settings name each service by its endpoint: Herald needs queues and tables, the platform needs blobs.
// Azure may add a connection string AzureWebJobsStorage beside them; the app then uses the identity, with a warning.
var storageSettings = {
  AzureWebJobsStorage__credential: 'managedidentity'
  AzureWebJobsStorage__clientId: identityClientId
  AzureWebJobsStorage__blobServiceUri: 'https://${storageAccountName}.blob.${storageHost}'
  AzureWebJobsStorage__queueServiceUri: 'https://${storageAccountName}.queue.${storageHost}'
  AzureWebJobsStorage__tableServiceUri: 'https://${storageAccountName}.table.${storageHost}'
}
var telemetrySettings = {
  APPLICATIONINSIGHTS_CONNECTION_STRING: telemetryConnectionString
  APPLICATIONINSIGHTS_AUTHENTICATION_STRING: 'ClientId=${identityClientId};Authorization=AAD'
}
var botSettings = {
  MicrosoftAppType: botAppType
  MicrosoftAppId: botAppId
  MicrosoftAppTenantId: botTenantId
  HERALD_FEDERATED_CLIENT_ID: botFederatedClientId
}
var secretSettings = union(
  empty(botAppPassword) ? {} : { MicrosoftAppPassword: botAppPassword },
  empty(botAppCertificate) ? {} : { HERALD_APP_CERTIFICATE: botAppCertificate }
)

resource site 'Microsoft.Web/sites@2024-04-01' = {
  name: name
  location: location
  kind: 'functionapp,linux'
  tags: union(tags, { 'azd-service-name': 'app' })
  // The system-assigned identity has no role. Without it, Azure cannot sync the triggers (functions-host issue 10904).
  identity: {
    type: 'SystemAssigned, UserAssigned'
    userAssignedIdentities: {
      '${identityId}': {}
    }
  }
  properties: {
    serverFarmId: planId
    httpsOnly: true
    // Settings that are Key Vault references are read by this identity, and not by the system-assigned one.
    keyVaultReferenceIdentity: identityId
    virtualNetworkSubnetId: empty(subnetId) ? null : subnetId
    siteConfig: {
      minTlsVersion: '1.2'
      ftpsState: 'Disabled'
    }
    functionAppConfig: {
      deployment: {
        storage: {
          type: 'blobContainer'
          value: 'https://${storageAccountName}.blob.${storageHost}/${deploymentContainerName}'
          authentication: {
            type: 'UserAssignedIdentity'
            userAssignedIdentityResourceId: identityId
          }
        }
      }
      runtime: {
        name: 'python'
        version: '3.13'
      }
      scaleAndConcurrency: {
        maximumInstanceCount: maximumInstanceCount
        instanceMemoryMB: instanceMemoryMB
        alwaysReady: alwaysReadyHttpInstances > 0 ? [{ name: 'http', instanceCount: alwaysReadyHttpInstances }] : []
        triggers: {
          http: {
            perInstanceConcurrency: httpConcurrency
          }
        }
      }
    }
  }
}

resource settings 'Microsoft.Web/sites/config@2024-04-01' = {
  parent: site
  name: 'appsettings'
  properties: union(storageSettings, telemetrySettings, botSettings, secretSettings, appSettings)
}

output hostName string = site.properties.defaultHostName
