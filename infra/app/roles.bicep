// The least roles: of the app's identity, and of who deploys.

param storageAccountName string
param telemetryName string
param identityPrincipalId string

@description('Object id of who deploys; empty for nobody.')
param principalId string
param principalType string

// Blob Data Owner, because the Functions host takes leases on blobs to run a timer only once.
var blobOwner = 'b7e6dc6d-f1e8-4753-8033-0f276bb0955b'
var queueContributor = '974c5e8b-45b9-4653-ba55-5f855dd0fb88'
var tableContributor = '0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3'
var metricsPublisher = '3913510d-42f4-4e42-8a64-420c390055eb'

resource storage 'Microsoft.Storage/storageAccounts@2023-05-01' existing = {
  name: storageAccountName
}

resource telemetry 'Microsoft.Insights/components@2020-02-02' existing = {
  name: telemetryName
}

resource appOnStorage 'Microsoft.Authorization/roleAssignments@2022-04-01' = [
  for role in [blobOwner, queueContributor, tableContributor]: {
    name: guid(storage.id, identityPrincipalId, role)
    scope: storage
    properties: {
      roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', role)
      principalId: identityPrincipalId
      principalType: 'ServicePrincipal'
    }
  }
]

resource appOnTelemetry 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(telemetry.id, identityPrincipalId, metricsPublisher)
  scope: telemetry
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', metricsPublisher)
    principalId: identityPrincipalId
    principalType: 'ServicePrincipal'
  }
}

// Who deploys uploads the package, and may look at queues and tables.
resource deployerOnStorage 'Microsoft.Authorization/roleAssignments@2022-04-01' = [
  for role in (empty(principalId) ? [] : [blobOwner, queueContributor, tableContributor]): {
    name: guid(storage.id, principalId, role)
    scope: storage
    properties: {
      roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', role)
      principalId: principalId
      principalType: principalType
    }
  }
]
