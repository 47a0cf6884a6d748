// The bot registration with its Teams channel.

param name string
param tags object
param displayName string
param endpoint string
param appType string
param appId string
param appTenantId string

@description('Resource id of the user-assigned identity; empty for an app registration.')
param identityId string

resource bot 'Microsoft.BotService/botServices@2021-03-01' = {
  name: name
  location: 'global'
  kind: 'azurebot'
  tags: tags
  sku: {
    name: 'F0'
  }
  properties: {
    displayName: displayName
    endpoint: endpoint
    msaAppType: appType
    msaAppId: appId
    msaAppTenantId: appTenantId
    msaAppMSIResourceId: empty(identityId) ? null : identityId
  }
}

resource teams 'Microsoft.BotService/botServices/channels@2021-03-01' = {
  parent: bot
  name: 'MsTeamsChannel'
  location: 'global'
  properties: {
    channelName: 'MsTeamsChannel'
  }
}
